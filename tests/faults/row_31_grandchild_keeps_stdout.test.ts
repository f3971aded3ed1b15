/** Row 31: a process that the runtime started keeps its output open. */

import { expect, onTestFinished, test } from 'vitest';
import { failure, isAlive, kill, ONCE, startFaulty } from './support.js';

/** The promise is 100 ms after the exit. */
const SETTLES_WITHIN_MS = 300;

test('the exit is acted upon, not the end of the pipe', async () => {
  const runtime = await startFaulty(ONCE);
  const { write_fd: stdout } = (await runtime.call('fault_wire_fds')) as { write_fd: number };
  const grandchild = (await runtime.call('fault_grandchild', {
    seconds: 600,
    stdout_fd: stdout,
  })) as { pid: number };
  onTestFinished(() => kill(grandchild.pid));
  let exitedAt = 0;
  const pending = failure(runtime.call('fault_sleep', { seconds: 600 }));
  const exit = failure(runtime.call('fault_exit', { code: 5 }));
  while (isAlive(runtime.hello.pid)) await new Promise(setImmediate);
  exitedAt = performance.now();
  const errors = await Promise.all([pending, exit]);
  expect(performance.now() - exitedAt).toBeLessThan(SETTLES_WITHIN_MS);
  for (const error of errors) expect(error).toMatchObject({ code: 'RUNTIME_EXITED', exitCode: 5 });
  expect(await runtime.closed).toMatchObject({ exitCode: 5 });
  expect(isAlive(grandchild.pid)).toBe(true);
});
