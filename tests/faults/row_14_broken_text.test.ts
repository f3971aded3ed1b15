/** Row 14: a JavaScript string with half a surrogate pair. */

import { expect, test } from 'vitest';
import { failure, startFaulty } from './support.js';

const BROKEN = ['\ud800', 'a\udfffb', '😀'.slice(0, 1), `${'x'.repeat(10_000)}\udc00`];

test('it fails its own request at the caller, with the field, and no other', async () => {
  const runtime = await startFaulty();
  const before = runtime.echo('before');
  for (const text of BROKEN) {
    const error = await failure(runtime.call('echo', { data: { text } }));
    expect(error.code).toBe('INVALID_REQUEST');
    expect(JSON.stringify(error.details)).toContain('text');
  }
  expect(await before).toBe('before');
  const sound = 'a\0é中👩‍👩‍👧 \uffff\u{10ffff}';
  expect(await runtime.echo(sound)).toBe(sound);
});

test('it is sent well-formed when the host asks for that', async () => {
  const runtime = await startFaulty({ loneSurrogates: 'replace' });
  for (const text of BROKEN) expect(await runtime.echo(text)).toBe(text.toWellFormed());
});
