/** Row 20: native code kills the runtime. */

import { expect, test } from 'vitest';
import type { RuntimeExitedError } from '../../bridge/dist/index.js';
import { failure, ONCE, startFaulty } from './support.js';

test.each([
  ['SIGSEGV', 'Segmentation fault'],
  ['SIGABRT', 'Aborted'],
])('%s: pending calls carry the signal and the stack', async (signal, title) => {
  const runtime = await startFaulty(ONCE);
  const bystander = failure(runtime.call('fault_sleep', { seconds: 600 }));
  const error = (await failure(runtime.call('fault_kill', { signal }))) as RuntimeExitedError;
  for (const each of [error, await bystander]) {
    expect(each).toMatchObject({ code: 'RUNTIME_EXITED', signal, exitCode: null });
  }
  expect(error.stderrTail).toContain(`Fatal Python error: ${title}`);
  expect(error.stderrTail).toContain('in kill_self');
  expect(error.message).toContain(signal);
});

test('an exit without a word carries its code', async () => {
  const runtime = await startFaulty(ONCE);
  const error = await failure(runtime.call('fault_exit', { code: 41 }));
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', signal: null, exitCode: 41 });
});
