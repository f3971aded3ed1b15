/** Row 13, and with it 11 and 12, as the host meets them: replies that nest, lie, or are forbidden. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { failure, frameHex, startFake } from './support.js';

interface Vector {
  readonly name: string;
  readonly hex: string;
  readonly error?: string;
}

const vectors = JSON.parse(
  readFileSync(new URL('../vectors/codec.json', import.meta.url), 'utf8'),
) as Vector[];
const refused = vectors.filter((vector) => vector.error !== undefined && vector.hex !== '');

test('every vector that must be refused is refused by both languages with the same code', async () => {
  const { decode } = await import('../../bridge/dist/wire/codec.js');
  for (const vector of refused) {
    const outcome = await failure(
      Promise.resolve().then(() => decode(Buffer.from(vector.hex, 'hex'))),
    );
    expect([vector.name, outcome.code]).toEqual([vector.name, vector.error]);
  }
});

const SECOND_REPLY = '930201';
const FORBIDDEN: Record<string, [string, string]> = {
  'a depth bomb': [`${'91'.repeat(50_000)}c0`, 'DEPTH_EXCEEDED'],
  'an array of 2^32 - 1': ['ddffffffff', 'DECODE_ERROR'],
  'a map of 2^32 - 1': ['dfffffffff', 'DECODE_ERROR'],
  'bytes of 2^32 - 1': ['c6ffffffff', 'DECODE_ERROR'],
  'a string of 2^32 - 1': ['dbffffffff', 'DECODE_ERROR'],
  __proto__: ['81a95f5f70726f746f5f5f01', 'DECODE_ERROR'],
  'an extension': ['d40100', 'DECODE_ERROR'],
  'invalid UTF-8': ['a2fffe', 'DECODE_ERROR'],
};

test.each(Object.entries(FORBIDDEN))(
  'a reply that holds %s fails its own request and no other',
  async (_, [value, code]) => {
    const runtime = await startFake('raw', frameHex(SECOND_REPLY + value) + frameHex('93020007'));
    const first = runtime.echo(0);
    const second = failure(runtime.echo(1));
    const before = process.memoryUsage().arrayBuffers;
    expect((await second).code).toBe(code);
    expect(await first).toBe(7);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(4 << 20);
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
  },
);
