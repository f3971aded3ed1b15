/** Row 6: the runtime speaks another version of the protocol. */

import { expect, test } from 'vitest';
import { createRuntime } from '../../bridge/dist/index.js';
import { ENVIRONMENT, failure, fakeCommand } from './support.js';

test('both versions and the fix are named, and nothing is sent', async () => {
  let stderr = '';
  const error = await failure(
    createRuntime({
      command: fakeCommand('version', '99'),
      env: ENVIRONMENT,
      onStderr: (text) => {
        stderr += text;
      },
    }),
  );
  expect(error.code).toBe('VERSION_MISMATCH');
  expect(error.message).toContain('protocol 99');
  expect(error.message).toContain('protocol 1');
  expect(error.message).toContain('install the same version');
  expect(['', 'the host sent 0 bytes']).toContain(stderr);
});
