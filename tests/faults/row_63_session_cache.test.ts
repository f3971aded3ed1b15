/** Row 63: kept conversations whose files are damaged, whose runtime ends, or that are busy. */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Model, Runtime, Session } from '../../bridge/dist/index.js';
import { failure, kill, PYTHON, start, temporaryFolder, waitUntil } from './support.js';

const GREEDY = { maxTokens: 16, ignoreEos: true };
/** Tokens of a prompt: two whole files and a part of a third. */
const TOKENS = 600;
const CHUNK_TOKENS = 256;

/** A prompt that no other number's begins like. */
function prompt(number: number, tokens = TOKENS): number[] {
  let state = number + 1;
  return Array.from({ length: tokens }, () => {
    state = (state * 48_271) % 2_147_483_647;
    return 300 + (state % 400);
  });
}

async function said(maker: Model | Session, ids: number[], options: object = {}) {
  const result = await maker.generate({ ids, ...GREEDY, ...options });
  return { ids: [...result.ids], state: result.cache?.state, reused: result.cache?.reusedTokens };
}

const uncached = async (model: Model, ids: number[]): Promise<number[]> =>
  (await said(model, ids, { cachePrompt: false })).ids;

const keeping = (dir: string, options: object = {}): Promise<Runtime> =>
  start({ python: PYTHON, sessions: { dir }, restart: { backoffMs: 1 }, ...options });

/** Kill the runtime and wait until that is noticed. */
async function crash(runtime: Runtime): Promise<void> {
  const { pid } = runtime.hello;
  kill(pid);
  await waitUntil(() => runtime.state !== 'running' || runtime.hello.pid !== pid, 'the end');
}

/** The files with evaluated tokens, the first ones first. */
function chunks(dir: string): string[] {
  const folder = join(dir, 'v1', 'chunks');
  const start = (name: string): number => Number(name.split('-')[2]);
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const whole = names.filter((name) => /^[0-9a-f]{64}-[0-9a-f]{64}-/.test(name));
  return whole.sort((one, other) => start(one) - start(other)).map((name) => join(folder, name));
}

test('the same Session object answers warm in the next process', async () => {
  const runtime = await keeping(temporaryFolder());
  const model = await runtime.loadModel();
  const session = await runtime.sessions.open('chat', { model });
  const first = await said(session, prompt(1));
  expect((await session.save()).saved).toBe(true);
  await crash(runtime);
  const longer = [...prompt(1), ...first.ids, ...prompt(2, 20)];
  const answer = await said(session, longer);
  expect(answer).toMatchObject({ state: 'warm', reused: TOKENS + 15 });
  expect(answer.ids).toEqual(await uncached(model, longer));
  expect((await session.refresh()).state).toBe('hot');
});

test('killed while it saves, it goes on with the files that are whole', async () => {
  const dir = temporaryFolder();
  const runtime = await keeping(dir);
  const model = await runtime.loadModel();
  const session = await runtime.sessions.open('chat', { model });
  const ids = prompt(3, 1_800);
  const first = await said(session, ids);
  await waitUntil(() => chunks(dir).length > 0, 'a file');
  await crash(runtime);
  const answer = await said(session, ids);
  expect(answer).toMatchObject({ ids: first.ids, state: 'warm' });
  expect(answer.reused).toBeGreaterThanOrEqual(CHUNK_TOKENS);
  expect((await session.save()).saved).toBe(true);
  const names = readdirSync(join(dir, 'v1', 'chunks'));
  expect(names.filter((name) => name.startsWith('.new-'))).toEqual([]);
  expect((await runtime.sessions.stats()).corruptFiles).toBe(0);
});

test('no call overtakes a turn that waits for its model in the next process', async () => {
  const runtime = await keeping(temporaryFolder());
  const model = await runtime.loadModel();
  const session = await runtime.sessions.open('chat', { model });
  await said(session, prompt(4));
  await session.save();
  const longer = [...prompt(4), ...prompt(5, 20)];
  await crash(runtime);
  // The model is loaded again for the first of them, which the second does not need.
  const turn = said(session, longer);
  const deleting = session.delete();
  expect(await turn).toMatchObject({ state: 'warm', reused: TOKENS });
  expect(await deleting).toBe(true);
  expect((await session.refresh()).tokens).toBe(0);
});

test('a bit that flipped costs an evaluation, and no answer', async () => {
  const dir = temporaryFolder();
  const runtime = await keeping(dir);
  const model = await runtime.loadModel();
  const session = await runtime.sessions.open('chat', { model });
  const first = await said(session, prompt(6));
  for (const which of [1, 0]) {
    expect((await session.save()).saved).toBe(true);
    expect((await session.evict()).evicted).toBe(true);
    const file = chunks(dir)[which] as string;
    const raw = readFileSync(file);
    raw[raw.length - 1] = (raw.at(-1) as number) ^ 1;
    writeFileSync(file, raw);
    const answer = await said(session, prompt(6));
    expect(answer.ids).toEqual(first.ids);
    expect(answer.reused).toBe(which * CHUNK_TOKENS);
  }
  expect(first.ids).toEqual(await uncached(model, prompt(6)));
  const { corruptFiles, restoreFailures } = await runtime.sessions.stats();
  expect([corruptFiles, restoreFailures]).toEqual([2, 2]);
});

test('a folder that vanishes, or cannot be made, is served without', async () => {
  const base = temporaryFolder();
  writeFileSync(join(base, 'file'), '');
  mkdirSync(join(base, 'there'));
  for (const dir of [join(base, 'file', 'sessions'), join(base, 'there')]) {
    const runtime = await keeping(dir);
    const model = await runtime.loadModel();
    const session = await runtime.sessions.open('chat', { model });
    rmSync(join(base, 'there'), { recursive: true, force: true });
    const first = await said(session, prompt(7));
    expect(first).toMatchObject({ state: 'cold', ids: await uncached(model, prompt(7)) });
    const longer = [...prompt(7), ...prompt(8, 20)];
    const second = await said(session, longer);
    expect(second).toMatchObject({ state: 'hot', reused: TOKENS });
    expect(second.ids).toEqual(await uncached(model, longer));
  }
});

test('two turns at once are answered in order, or the second says SESSION_BUSY', async () => {
  const runtime = await keeping(temporaryFolder());
  const model = await runtime.loadModel();
  const session = await runtime.sessions.open('chat', { model });
  const [one, two] = [prompt(9), [...prompt(9), ...prompt(10, 20)]];
  const [first, second] = await Promise.all([said(session, one), said(session, two)]);
  expect(first.ids).toEqual(await uncached(model, one));
  expect(second.ids).toEqual(await uncached(model, two));
  expect([first.reused, second.reused]).toEqual([0, TOKENS]);
  const hasty = await runtime.sessions.open('chat', { model, whenBusy: 'fail' });
  const running = said(session, two, { maxTokens: 200 });
  const error = await failure(hasty.generate({ ids: two, ...GREEDY }));
  expect([error.code, error.retryable]).toEqual(['SESSION_BUSY', true]);
  expect((await running).ids).toHaveLength(200);
});

test('two tenants share neither names nor what was evaluated', async () => {
  const runtime = await keeping(temporaryFolder());
  const model = await runtime.loadModel();
  const expected = await uncached(model, prompt(11));
  for (const tenant of ['alice', 'bob']) {
    const session = await runtime.sessions.open('chat', { model, tenant });
    const answer = await said(session, prompt(11));
    expect(answer).toEqual({ ids: expected, state: 'cold', reused: 0 });
    await session.save();
    await session.evict();
    expect((await runtime.sessions.list({ tenant })).map(({ id }) => id)).toEqual(['chat']);
  }
  expect(await runtime.sessions.list()).toEqual([]);
});
