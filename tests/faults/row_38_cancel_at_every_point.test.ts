/** Row 38: a cancel at any point of a request's life, which touches no other request. */

import { afterEach, beforeEach, expect, test } from 'vitest';
import { AbortError, type Model, type Runtime } from '../../bridge/dist/index.js';
import {
  engineIsAtWork,
  engineIsIdle,
  failure,
  shareFaulty,
  temporaryFolder,
  writeDeep,
} from './support.js';

const shared = shareFaulty();
let runtime: Runtime;
let model: Model;
let bystander: PromiseLike<{ text: string }>;
const long = { prompt: 'a', maxTokens: 100_000 };

beforeEach(() => {
  ({ runtime, model } = shared);
  bystander = model.generate({ prompt: 'z', maxTokens: 200 });
});

afterEach(async () => {
  expect((await bystander).text).toBe('z'.repeat(200));
});

async function expectAborted(promise: PromiseLike<unknown>): Promise<AbortError> {
  const error = await failure(promise);
  expect(error).toBeInstanceOf(AbortError);
  expect(error.code).toBe('CANCELLED');
  return error as AbortError;
}

test('before it is sent, nothing reaches the runtime', async () => {
  const before = (await runtime.stats()).cancelled ?? 0;
  const error = await expectAborted(runtime.echo(1, { signal: AbortSignal.abort('early') }));
  expect(error.cause).toBe('early');
  await expectAborted(model.generate({ ...long, signal: AbortSignal.abort() }));
  expect((await runtime.stats()).cancelled ?? 0).toBe(before);
});

test('in the turn in which it is sent', async () => {
  const generation = model.generate(long);
  generation.cancel();
  generation.cancel();
  expect(await generation).toMatchObject({ finishReason: 'cancelled', text: '' });
  const controller = new AbortController();
  const call = runtime.call('fault_sleep', { seconds: 600 }, { signal: controller.signal });
  controller.abort();
  await expectAborted(call);
});

test('in the queue it settles while the engine is still busy, and the next one runs', async () => {
  await bystander;
  const blocker = runtime.call('fault_block_engine', { seconds: 1 });
  const first = model.generate(long);
  const second = model.generate({ prompt: 'b', maxTokens: 4 });
  const third = model.generate({ prompt: 'c', maxTokens: 4 });
  await runtime.ping();
  first.cancel();
  const order: string[] = [];
  const note = (name: string) => (): unknown => order.push(name);
  await Promise.all([blocker.then(note('blocker')), first.then(note('first'))]);
  expect(order).toEqual(['first', 'blocker']);
  expect((await second).text).toBe('bbbb');
  expect((await third).text).toBe('cccc');
});

test('in prefill the engine is free after the chunk', async () => {
  const deep = await runtime.loadModel(writeDeep(temporaryFolder()));
  await bystander;
  const controller = new AbortController();
  const generation = deep.generate({ prompt: 'x'.repeat(60_000), signal: controller.signal });
  const aborted = expectAborted(generation);
  const other = model.generate({ prompt: 'b', maxTokens: 3 });
  expect((await other).text).toBe('bbb');
  await engineIsAtWork(runtime);
  controller.abort(new Error('no more'));
  expect((await aborted).partial?.completionTokens).toBe(0);
  await engineIsIdle(runtime);
});

test('in decode the signal rejects with what was delivered, cancel() resolves with it', async () => {
  const controller = new AbortController();
  const generation = model.generate({ ...long, signal: controller.signal });
  let delivered = '';
  const iterated = (async () => {
    for await (const { text } of generation) {
      delivered += text;
      if (delivered.length >= 5) controller.abort();
    }
  })();
  const error = await expectAborted(iterated);
  expect(error.partial?.text.startsWith(delivered)).toBe(true);
  const other = model.generate(long);
  await other[Symbol.asyncIterator]().next();
  other.cancel();
  const result = await other;
  expect(result.finishReason).toBe('cancelled');
  expect(result.text).toBe('a'.repeat(result.ids.length));
  expect(result.usage.completionTokens).toBeGreaterThanOrEqual(result.ids.length);
  await engineIsIdle(runtime);
});

test('after the end it changes nothing', async () => {
  const controller = new AbortController();
  const generation = model.generate({ prompt: 'b', maxTokens: 3, signal: controller.signal });
  const result = await generation;
  controller.abort();
  generation.cancel();
  expect(await generation).toBe(result);
  expect(await runtime.echo('x', { signal: new AbortController().signal })).toBe('x');
});

test('one of many calls, on one signal each, is the only one that fails', async () => {
  const controllers = Array.from({ length: 50 }, () => new AbortController());
  const calls = controllers.map(({ signal }, index) =>
    model.tokenize('t'.repeat(5_000 + index), { signal }),
  );
  const aborted = expectAborted(calls[25] as PromiseLike<unknown>);
  controllers[25]?.abort();
  await aborted;
  const rest = await Promise.all(calls.filter((_, index) => index !== 25));
  expect(rest.map((ids) => ids.length)).toEqual(
    controllers.map((_, index) => 5_000 + index).filter((length) => length !== 5_025),
  );
});

test('in the queue a draft is never verified, and those beside it are', async () => {
  await bystander;
  const blocker = runtime.call('fault_block_engine', { seconds: 1 });
  const controller = new AbortController();
  const check = { ids: [1], draft: [1, 1] };
  const gone = [1, 2].map(() => model.checkDraft(check, { signal: controller.signal }));
  const kept = model.checkDraft(check);
  await runtime.ping();
  controller.abort();
  await Promise.all(gone.map(expectAborted));
  expect((await kept).accepted).toBe(2);
  await blocker;
});
