/** Row 30: the runtime closes its input, so that the host's next write breaks. */

import { expect, test } from 'vitest';
import { failure, isAlive, ONCE, startFaulty, waitUntil } from './support.js';

test('everything pending settles, the host lives, and the runtime is ended', async () => {
  const runtime = await startFaulty(ONCE);
  const pending = failure(runtime.call('fault_sleep', { seconds: 600 }));
  await runtime.call('fault_close_input');
  const writes = Array.from({ length: 20 }, () => failure(runtime.echo(new Uint8Array(100_000))));
  const errors = await Promise.all([pending, ...writes]);
  expect(new Set(errors.map((error) => error.code))).toEqual(new Set(['RUNTIME_EXITED']));
  expect((await failure(runtime.echo('later'))).code).toBe('RUNTIME_EXITED');
  await runtime.closed;
  await waitUntil(() => !isAlive(runtime.hello.pid), 'the runtime is gone');
});

test('writing to a runtime that has just been killed raises nothing but rejections', async () => {
  for (let round = 0; round < 5; round++) {
    const runtime = await startFaulty(ONCE);
    process.kill(runtime.hello.pid, 'SIGKILL');
    const calls = Array.from({ length: 100 }, () => failure(runtime.echo('x'.repeat(10_000))));
    for (const error of await Promise.all(calls)) expect(error.code).toBe('RUNTIME_EXITED');
  }
});
