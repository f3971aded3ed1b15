/** Row 24: the runtime says no hello. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createRuntime } from '../../bridge/dist/index.js';
import {
  ENVIRONMENT,
  failure,
  fakeCommand,
  faultyCommand,
  isAlive,
  temporaryFolder,
} from './support.js';

test('one that ignores SIGTERM is killed and reaped before the error arrives', async () => {
  const pidFile = join(temporaryFolder(), 'pid');
  const error = await failure(
    createRuntime({
      command: fakeCommand('hang'),
      env: { ...ENVIRONMENT, FAKE_PID_FILE: pidFile },
      startTimeoutMs: 1_500,
      shutdown: { graceMs: 100, termMs: 100, killMs: 5_000 },
    }),
  );
  expect(error.code).toBe('START_TIMEOUT');
  expect(error.message).toContain('1500 ms');
  expect(isAlive(Number(readFileSync(pidFile, 'utf8')))).toBe(false);
});

test('one that is slow is ended too, and the error shows what it wrote', async () => {
  const pidFile = join(temporaryFolder(), 'pid');
  const error = await failure(
    createRuntime({
      command: faultyCommand('--delay-s', '600', '--pid-file', pidFile),
      env: ENVIRONMENT,
      startTimeoutMs: 2_500,
    }),
  );
  expect(error.code).toBe('START_TIMEOUT');
  expect(isAlive(Number(readFileSync(pidFile, 'utf8')))).toBe(false);
});
