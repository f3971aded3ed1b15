/** Row 48: a generation fails after its first tokens: nothing is repeated, nothing is lost. */

import { expect, test } from 'vitest';
import type { IsthmusError } from '../../bridge/dist/index.js';
import { failure, ONCE, python, startFaulty, temporaryFolder, writeChain } from './support.js';

const TOKENS = 5;
const PARTIAL = {
  text: 'aaaaa',
  ids: new Uint32Array(TOKENS).fill(97),
  completionTokens: TOKENS,
};

async function setUp(folder = writeChain(temporaryFolder())) {
  const runtime = await startFaulty({ ...ONCE, heartbeat: false });
  return { runtime, model: await runtime.loadModel(folder) };
}

/** Iterate to the end; return what came, and the error. */
async function iterate(
  deltas: AsyncIterable<{ text: string }>,
): Promise<{ text: string; error: IsthmusError }> {
  let text = '';
  const loop = async (): Promise<void> => {
    for await (const delta of deltas) text += delta.text;
  };
  const error = await failure(loop());
  return { text, error };
}

test('iterated: the tokens come, then the error with all of them', async () => {
  const { runtime, model } = await setUp();
  await runtime.call('fault_die_at_token', { tokens: TOKENS });
  const { text, error } = await iterate(model.generate({ prompt: 'a', maxTokens: 50 }));
  expect(text).toBe(PARTIAL.text);
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL', retryable: false });
  expect(error.partial).toEqual(PARTIAL);
  expect(await runtime.closed).toMatchObject({ signal: 'SIGKILL' });
});

test('awaited: the error has what was delivered', async () => {
  const { runtime, model } = await setUp();
  await runtime.call('fault_die_at_token', { tokens: TOKENS });
  const error = await failure(model.generate({ prompt: 'a', maxTokens: 50 }));
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', retryable: false, partial: PARTIAL });
});

test('before its first token it may be repeated: nothing was delivered', async () => {
  const { runtime, model } = await setUp();
  await runtime.call('fault_die_at_token', { tokens: 0 });
  const error = await failure(model.generate({ prompt: 'a', maxTokens: 50 }));
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', retryable: true });
  expect(error.partial).toEqual({ text: '', ids: new Uint32Array(0), completionTokens: 0 });
});

test('an engine that dies is an error that may be repeated only without tokens', async () => {
  const { runtime, model } = await setUp();
  const generation = model.generate({ prompt: 'a', maxTokens: 100_000 });
  const deltas = generation[Symbol.asyncIterator]();
  await deltas.next();
  await runtime.call('fault_break_step', {});
  const begun = await failure(generation.result);
  expect(begun).toMatchObject({ code: 'ENGINE_DEAD', retryable: false });
  expect(begun.partial?.text).toBe('a'.repeat(begun.partial?.completionTokens ?? 0));
  expect(begun.partial?.completionTokens).toBeGreaterThan(0);
  const refused = await failure(model.generate({ prompt: 'a' }));
  expect(refused).toMatchObject({ code: 'ENGINE_DEAD', retryable: true });
});

test('logits that break in the middle leave what came before them', async () => {
  const folder = `${temporaryFolder()}/model`;
  python(
    'import sys, pathlib; from tests.faults.small_models import write_chain; ' +
      'write_chain(pathlib.Path(sys.argv[1]), {97: 98, 98: 99}, overflow={99: "nan"})',
    folder,
  );
  const { model } = await setUp(folder);
  const { text, error } = await iterate(model.generate({ prompt: 'a', maxTokens: 50 }));
  expect(text).toBe('bc');
  expect(error).toMatchObject({
    code: 'NUMERIC_ERROR',
    retryable: false,
    partial: { text: 'bc', ids: Uint32Array.of(98, 99), completionTokens: 2 },
    details: { completionTokens: 2 },
  });
});

test('with a successor: without a token it is repeated, with one it is not', async () => {
  const folder = writeChain(temporaryFolder());
  const runtime = await startFaulty();
  const model = await runtime.loadModel(folder);
  const request = { prompt: 'a', maxTokens: 8 };
  await runtime.call('fault_die_at_token', { tokens: 0 });
  expect((await model.generate(request)).text).toBe('aaaaaaaa');
  await runtime.call('fault_die_at_token', { tokens: TOKENS });
  const { text, error } = await iterate(model.generate(request));
  expect(text).toBe(PARTIAL.text);
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', retryable: false, partial: PARTIAL });
  expect((await runtime.stats()).supervision).toMatchObject({ replayed: 1, restored: 1 });
});
