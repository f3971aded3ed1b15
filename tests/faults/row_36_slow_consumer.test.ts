/** Row 36: one stream's consumer is slow or stops. */

import { expect, test } from 'vitest';
import { engineIsReady, shareFaulty } from './support.js';

const MIB = 1 << 20;
const COUNT = 100_000;
const shared = shareFaulty();

test('it holds its own stream back and no other, and memory stays flat at both ends', async () => {
  const { runtime } = shared;
  await engineIsReady(runtime);
  const slow = runtime.streamEcho(COUNT, 'x'.repeat(1_000), { credit: 64 });
  await slow.next();
  global.gc?.();
  const before = process.memoryUsage().heapUsed;
  const residentBefore = (await runtime.ping()).rssBytes;
  let expected = 0;
  for await (const item of runtime.streamEcho(COUNT)) {
    if (item !== expected) expect.fail(`${String(item)} came instead of ${expected}`);
    expected++;
  }
  expect(expected).toBe(COUNT);
  global.gc?.();
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(16 * MIB);
  expect((await runtime.ping()).rssBytes - residentBefore).toBeLessThan(16 * MIB);
  let rest = 1;
  for await (const _ of slow) {
    if (++rest % 10_000 === 0) await runtime.ping();
  }
  expect(rest).toBe(COUNT);
});

test('a generation whose consumer pauses is paused, and goes on where it was', async () => {
  const { model } = shared;
  const deltas = model.generate({ prompt: 'a', maxTokens: 300, credit: 8 })[Symbol.asyncIterator]();
  let text = (await deltas.next()).value?.text ?? '';
  const others = [1, 2, 3].map(() => model.generate({ prompt: 'b', maxTokens: 100 }));
  for (const other of await Promise.all(others)) expect(other.text).toBe('b'.repeat(100));
  for (let next = await deltas.next(); !next.done; next = await deltas.next()) {
    text += next.value.text;
  }
  expect(text).toBe('a'.repeat(300));
});

test('a generation that is only awaited is never held back', async () => {
  const { model } = shared;
  const { text, usage } = await model.generate({ prompt: 'c', maxTokens: 1_000, credit: 4 });
  expect(text).toBe('c'.repeat(1_000));
  expect(usage.completionTokens).toBe(1_000);
});
