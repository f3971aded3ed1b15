/** Row 43: cancel, close, crash and unload while calls collect behind a batch in flight. */

import { expect, test } from 'vitest';
import type { Model, Runtime } from '../../bridge/dist/index.js';
import { failure, kill, ONCE, startFaulty } from './support.js';

interface Busy {
  readonly runtime: Runtime;
  readonly model: Model;
  /** In flight: long enough that what comes after it collects. */
  readonly first: Promise<Uint32Array>;
}

const FIRST = 'word '.repeat(12_000);

async function busy(): Promise<Busy> {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const first = model.tokenize(FIRST);
  await new Promise((resolve) => setImmediate(resolve));
  return { runtime, model, first };
}

const collect = (model: Model, count: number, signal?: AbortSignal): Promise<Uint32Array>[] =>
  Array.from({ length: count }, (_, index) =>
    model.tokenize(`text number ${index}`, signal && { signal }),
  );

test('calls that are aborted while they collect settle, and the others have their results', async () => {
  const { runtime, model, first } = await busy();
  const controller = new AbortController();
  const gone = collect(model, 20, controller.signal).map(failure);
  const kept = collect(model, 20);
  controller.abort('enough');
  for (const error of await Promise.all(gone)) {
    expect(error).toMatchObject({ code: 'CANCELLED', cause: 'enough' });
  }
  const ids = await Promise.all(kept);
  expect(ids).toEqual(await model.tokenizeBatch(ids.map((_, index) => `text number ${index}`)));
  expect((await first).length).toBeGreaterThan(0);
  expect((await runtime.ping()).inFlight).toBe(0);
});

test('calls that collect when the runtime is closed are answered before it ends', async () => {
  const { runtime, model, first } = await busy();
  const calls = collect(model, 20);
  const closed = runtime.close();
  const later = failure(model.tokenize('later'));
  expect((await Promise.all(calls)).every((ids) => ids.length > 0)).toBe(true);
  expect((await first).length).toBeGreaterThan(0);
  expect((await later).code).toBe('CLOSING');
  expect((await closed).exitCode).toBe(0);
});

test('calls that collect when the runtime is killed settle with its end, each its own', async () => {
  const runtime = await startFaulty(ONCE);
  const model = await runtime.loadModel();
  // Stopped, it answers nothing before it is killed.
  process.kill(runtime.hello.pid, 'SIGSTOP');
  const first = model.tokenize(FIRST);
  await new Promise((resolve) => setImmediate(resolve));
  const calls = [first, ...collect(model, 300)].map(failure);
  kill(runtime.hello.pid);
  const errors = await Promise.all(calls);
  for (const error of errors) {
    expect(error).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL' });
  }
  expect(new Set(errors).size).toBe(errors.length);
});

test('a burst is sent in frames of at most 256 calls, and none is lost', async () => {
  const { runtime, model, first } = await busy();
  const ids = await Promise.all(collect(model, 1_500));
  const expected = await model.tokenizeBatch(ids.map((_, index) => `text number ${index}`));
  expect(ids).toEqual(expected);
  const [lane] = Object.values((await runtime.stats()).calls);
  expect(lane?.largest).toBe(256);
  expect(lane?.frames).toBeLessThanOrEqual(lane?.calls ? lane.calls / 20 : 0);
  await first;
});

test('a model unloaded while calls collect answers those made before, and refuses later ones', async () => {
  const { runtime, model, first } = await busy();
  const other = await runtime.loadModel('default-draft');
  const before = collect(other, 20);
  const unloaded = other.unload();
  const after = collect(other, 5).map(failure);
  const bystanders = collect(model, 20);
  expect((await Promise.all(before)).every((ids) => ids.length > 0)).toBe(true);
  expect(await unloaded).toMatchObject({ unloaded: true });
  for (const error of await Promise.all(after)) expect(error.code).toBe('MODEL_NOT_LOADED');
  expect((await Promise.all([first, ...bystanders])).every((ids) => ids.length > 0)).toBe(true);
});

test('calls that collect when the runtime is killed go to the next one, and all are answered', async () => {
  const { runtime, model, first } = await busy();
  const expected = await model.tokenizeBatch(
    Array.from({ length: 20 }, (_, i) => `text number ${i}`),
  );
  process.kill(runtime.hello.pid, 'SIGSTOP');
  const second = model.tokenize(FIRST);
  await new Promise((resolve) => setImmediate(resolve));
  const calls = collect(model, 20);
  kill(runtime.hello.pid);
  expect(await Promise.all(calls)).toEqual(expected);
  expect(await second).toEqual(await first);
});
