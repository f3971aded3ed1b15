/** Row 28: a shell stands between the host and the runtime. */

import { expect, test } from 'vitest';
import { failure, faultyCommand, isAlive, start, waitUntil } from './support.js';

const behindShell = (script: string): [string, ...string[]] => [
  'sh',
  '-c',
  script,
  'sh',
  ...faultyCommand(),
];

test.each(['exec "$@"', '"$@"; true', 'sh -c \'"$@"; :\' sh "$@"; true'])(
  'behind %s close ends the runtime, and its exit code is kept',
  async (script) => {
    const runtime = await start({ command: behindShell(script) });
    expect(await runtime.echo('through')).toBe('through');
    expect(await runtime.close()).toMatchObject({ exitCode: 0, signal: null });
    await waitUntil(() => !isAlive(runtime.hello.pid), 'the runtime is gone', 3_000);
  },
);

test('a runtime that is stuck behind a shell is ended with the shell', async () => {
  const shutdown = { graceMs: 200, termMs: 200, killMs: 2_000 };
  const runtime = await start({ command: behindShell('"$@"; true'), shutdown });
  const pending = failure(runtime.call('fault_block_loop', { seconds: 600 }));
  await runtime.close();
  expect((await pending).code).toBe('RUNTIME_EXITED');
  await waitUntil(() => !isAlive(runtime.hello.pid), 'the runtime is gone', 3_000);
});
