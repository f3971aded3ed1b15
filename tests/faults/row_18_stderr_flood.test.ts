/** Row 18: a hundred megabytes on standard error. */

import { expect, test } from 'vitest';
import { engineIsReady, startFaulty } from './support.js';

const MIB = 1 << 20;

test('it blocks nobody, the last 64 KiB are kept, and memory stays flat', async () => {
  const runtime = await startFaulty();
  await engineIsReady(runtime);
  global.gc?.();
  const before = process.memoryUsage();
  const residentBefore = (await runtime.ping()).rssBytes;
  await runtime.call('fault_flood_stderr', { bytes: 100_000_000 });
  expect(await runtime.echo('still here')).toBe('still here');
  global.gc?.();
  const after = process.memoryUsage();
  expect(after.heapUsed - before.heapUsed).toBeLessThan(32 * MIB);
  expect(after.external - before.external).toBeLessThan(32 * MIB);
  expect((await runtime.ping()).rssBytes - residentBefore).toBeLessThan(8 * MIB);
  expect(runtime.stderr.length).toBeLessThanOrEqual(65_536);
  expect(runtime.stderr.length).toBeGreaterThan(60_000);
  expect(runtime.stderr).toMatch(/^[x\n]+$/);
});
