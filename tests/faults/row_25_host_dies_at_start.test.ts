/** Row 25: the host is killed before the runtime's hello. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { killHost, startHost } from './hosts.js';
import { faultyCommand, temporaryFolder, waitUntil } from './support.js';

/** The promise is 1 s. */
const GONE_WITHIN_MS = 3_000;

test.each([
  ['sleeps before its hello', '600'],
  ['is about to say hello', '0'],
])('a runtime that %s is gone', async (_, delay) => {
  const pidFile = join(temporaryFolder(), 'pid');
  const command = faultyCommand('--delay-s', delay, '--pid-file', pidFile);
  const host = startHost({ command, state: 'starting' });
  const pid = (): number => (existsSync(pidFile) ? Number(readFileSync(pidFile, 'utf8')) : 0);
  await waitUntil(() => pid() > 0, 'the child has begun');
  expect(await killHost(host, pid())).toBeLessThan(GONE_WITHIN_MS);
});
