/** Row 53: the wall clock jumps, or the runtime is suspended: nothing expires that should not. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { ROOT, startFaulty } from './support.js';

test.each([3_600_000, -3_600_000])(
  'a jump of the wall clock by %i ms changes nothing',
  async (jump) => {
    const runtime = await startFaulty();
    const model = await runtime.loadModel();
    vi.useFakeTimers({ toFake: ['Date'] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    const calls = [
      runtime.call('fault_sleep', { seconds: 0.3 }, { deadlineMs: 30_000 }),
      model.generate({ prompt: 'Once', maxTokens: 5, deadlineMs: 30_000 }),
      ...['a', 'b', 'c'].map((text) => model.tokenize(text, { deadlineMs: 30_000 })),
    ];
    vi.setSystemTime(Date.now() + jump);
    await Promise.all(calls);
    expect((await runtime.stats()).deadlines_exceeded ?? 0).toBe(0);
  },
);

test('a runtime that was suspended goes on, and no call without a passed deadline expires', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const texts = Array.from({ length: 100 }, (_, index) => `text number ${index}`);
  const expected = await model.tokenizeBatch(texts);
  process.kill(runtime.hello.pid, 'SIGSTOP');
  const calls = texts.map((text, index) =>
    model.tokenize(text, index % 2 === 0 ? { deadlineMs: 30_000 } : undefined),
  );
  await wait(1_000);
  process.kill(runtime.hello.pid, 'SIGCONT');
  expect(await Promise.all(calls)).toEqual(expected);
  expect((await runtime.ping()).inFlight).toBe(0);
});

function* sources(folder: string, ending: string): Generator<string> {
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && entry.name.endsWith(ending)) yield join(entry.parentPath, entry.name);
  }
}

test('nothing that decides reads the wall clock', () => {
  const wall = /\btime\.time\(|datetime\.now\(|\bDate\.now\(|new Date\(/;
  const files = [
    ...sources(join(ROOT, 'python/isthmus'), '.py'),
    ...sources(join(ROOT, 'bridge/src'), '.ts'),
  ];
  expect(files.length).toBeGreaterThan(50);
  const deciding = files.filter((file) => !file.endsWith('log.py'));
  expect(deciding.filter((file) => wall.test(readFileSync(file, 'utf8')))).toEqual([]);
});
