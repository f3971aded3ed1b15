/** Row 35: the host's own event loop is blocked for longer than a runtime may be silent. */

import { expect, test } from 'vitest';
import { startFaulty } from './support.js';

const HEARTBEAT = { intervalMs: 50, silenceMs: 300 };

function block(milliseconds: number): void {
  const end = performance.now() + milliseconds;
  while (performance.now() < end);
}

test('the runtime is not taken for dead, and every call has its answer', async () => {
  const runtime = await startFaulty({ heartbeat: HEARTBEAT, restart: false });
  const { pid } = runtime.hello;
  for (let round = 0; round < 3; round++) {
    const calls = [
      runtime.call('fault_sleep', { seconds: 0.01 }),
      runtime.call('fault_sleep', { seconds: 0.5 }),
      runtime.echo(round),
    ];
    await runtime.ping();
    block(4 * HEARTBEAT.silenceMs);
    expect((await Promise.all(calls))[2]).toBe(round);
  }
  expect(runtime.state).toBe('running');
  expect(runtime.hello.pid).toBe(pid);
});
