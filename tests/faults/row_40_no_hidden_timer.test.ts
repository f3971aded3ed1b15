/** Row 40: without a deadline no clock ends a request, however long the runtime is silent. */

import { afterEach, expect, test, vi } from 'vitest';
import { startFake } from './support.js';

const HOUR_MS = 3_600_000;

afterEach(() => {
  vi.useRealTimers();
});

test('a request lives through an hour of silence and is answered', async () => {
  // The fake clock passes while no pong can be read: what watches the process is left out.
  const runtime = await startFake('silent', '', { heartbeat: false });
  vi.useFakeTimers({
    toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'],
  });
  let settled = 0;
  const count = (value: unknown): unknown => {
    settled++;
    return value;
  };
  const calls = [
    runtime.echo('first').then(count),
    runtime.loadModel('default').then(count, count),
    runtime.call('generate', { prompt: 'x' }).then(count),
  ];
  for (let hour = 0; hour < 2; hour++) {
    vi.advanceTimersByTime(HOUR_MS / 2);
    await runtime.ping();
  }
  expect(vi.getTimerCount()).toBe(0);
  expect(settled).toBe(0);
  expect(await runtime.call('release')).toBeNull();
  expect(await calls[0]).toBe('first');
  await Promise.all(calls);
  expect(settled).toBe(3);
});
