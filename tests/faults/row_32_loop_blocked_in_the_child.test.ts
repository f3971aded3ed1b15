/** Row 32: the runtime's event loop is blocked: it is noticed, ended and replaced. */

import { expect, test } from 'vitest';
import type { RuntimeExitedError } from '../../bridge/dist/index.js';
import { failure, isAlive, startFaulty, waitUntil } from './support.js';

const HEARTBEAT = { intervalMs: 50, silenceMs: 400 };

test.each([
  ['sleeping', {}],
  ["holding the interpreter's lock", { hold_gil: true }],
])('%s: what is pending settles, and the next call finds a new runtime', async (_, params) => {
  const runtime = await startFaulty({ heartbeat: HEARTBEAT });
  const { pid } = runtime.hello;
  await runtime.call('fault_block_engine', { seconds: 0 });
  const blocked = failure(runtime.call('fault_block_loop', { seconds: 600, ...params }));
  const kept = runtime.echo('kept');
  const error = (await blocked) as RuntimeExitedError;
  expect(error).toMatchObject({
    code: 'RUNTIME_UNRESPONSIVE',
    signal: 'SIGKILL',
    retryable: true,
    details: { sent: true, cause: 'silent' },
  });
  expect(error.message).toMatch(/sent nothing for \d+ ms/);
  expect(error.message).not.toContain('memory');
  expect(await kept).toBe('kept');
  expect(runtime.hello.pid).not.toBe(pid);
  await waitUntil(() => !isAlive(pid), 'the old runtime is gone');
  expect((await runtime.stats()).supervision).toMatchObject({ state: 'running', restarts: 1 });
});

test('one that nothing is asked of is not watched, and not missed', async () => {
  const runtime = await startFaulty({ heartbeat: HEARTBEAT, restart: false });
  process.kill(runtime.hello.pid, 'SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 4 * HEARTBEAT.silenceMs));
  process.kill(runtime.hello.pid, 'SIGCONT');
  expect(await runtime.echo('still there')).toBe('still there');
});

test('without a heartbeat it is waited for', async () => {
  const runtime = await startFaulty({ heartbeat: false });
  await runtime.call('fault_block_loop', { seconds: 1 });
  expect((await runtime.stats()).supervision).toMatchObject({ restarts: 0 });
});
