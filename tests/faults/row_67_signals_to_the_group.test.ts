/** Row 67: a Ctrl-C reaches host and runtime at once. */

import { expect, test } from 'vitest';
import { startHost } from './hosts.js';
import { faultyCommand, isAlive, waitUntil } from './support.js';

test.each([
  ['the runtime itself', faultyCommand()],
  ['a shell that execs it', ['sh', '-c', 'exec "$@"', 'sh', ...faultyCommand()]],
])('with %s the host decides, and the exit code is kept', async (_, command) => {
  const host = startHost({ command, state: 'idle' });
  const { pid } = (await host.line()) as { pid: number };
  process.kill(-(host.process.pid as number), 'SIGINT');
  const { report } = (await host.line()) as { report: Record<string, unknown> };
  expect(report).toMatchObject({ exitCode: 0, signal: null });
  expect(report.stderrTail).not.toContain('Traceback');
  await waitUntil(() => !isAlive(pid), 'the runtime is gone');
});

test('a host without a handler dies of it, and the runtime goes with it', async () => {
  const host = startHost({ command: faultyCommand(), state: 'engine busy' });
  const { pid } = (await host.line()) as { pid: number };
  process.kill(-(host.process.pid as number), 'SIGTERM');
  await waitUntil(() => !isAlive(pid), 'the runtime is gone');
});
