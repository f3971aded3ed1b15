/** Row 37: the consumer leaves a stream by break, throw, return or the garbage collector. */

import { expect, test } from 'vitest';
import type { Model, Runtime } from '../../bridge/dist/index.js';
import { engineIsIdle, shareFaulty, waitUntil } from './support.js';

const shared = shareFaulty();
const request = { prompt: 'a', maxTokens: 100_000, credit: 100_000 };
const cancelled = async (runtime: Runtime): Promise<number> =>
  Number((await runtime.stats()).cancelled ?? 0);

const WAYS: Record<string, (model: Model) => Promise<void>> = {
  async break(model) {
    let count = 0;
    for await (const _ of model.generate(request)) if (++count === 3) break;
  },
  async throw(model) {
    const leave = async (): Promise<void> => {
      for await (const _ of model.generate(request)) throw new Error('enough');
    };
    await expect(leave()).rejects.toThrow('enough');
  },
  async return(model) {
    const deltas = model.generate(request)[Symbol.asyncIterator]();
    await deltas.next();
    await deltas.return();
    await deltas.return();
    expect(await deltas.next()).toEqual({ value: undefined, done: true });
  },
  async 'await using'(model) {
    const deltas = model.generate(request)[Symbol.asyncIterator]();
    await deltas.next();
    await deltas[Symbol.asyncDispose]();
  },
};

test.each(Object.entries(WAYS))(
  '%s: one cancel is sent, the engine is free, and the next stream sees nothing of it',
  async (_, leave) => {
    const { runtime, model } = shared;
    const before = await cancelled(runtime);
    await leave(model);
    await engineIsIdle(runtime);
    expect((await runtime.ping()).inFlight).toBe(0);
    expect(await cancelled(runtime)).toBe(before + 1);
    expect((await model.generate({ prompt: 'b', maxTokens: 5 })).text).toBe('bbbbb');
    expect(runtime.counters.droppedReplies).toBe(0);
  },
);

test('a generation that was collected unread is cancelled', async () => {
  const { runtime, model } = shared;
  const before = await cancelled(runtime);
  const begin = async (): Promise<void> => {
    await model.generate(request)[Symbol.asyncIterator]().next();
    model.generate(request);
  };
  await begin();
  await waitUntil(async () => {
    global.gc?.();
    return (await cancelled(runtime)) === before + 2;
  }, 'both are cancelled');
  await engineIsIdle(runtime);
});

test('a hundred streams left one after another leave nothing behind', async () => {
  const { runtime, model } = shared;
  const before = await cancelled(runtime);
  for (let round = 0; round < 100; round++) {
    for await (const { text } of model.generate(request)) {
      expect(text).toMatch(/^a+$/);
      break;
    }
  }
  await engineIsIdle(runtime);
  expect(await cancelled(runtime)).toBe(before + 100);
  expect((await runtime.ping()).inFlight).toBe(0);
});
