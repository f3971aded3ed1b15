/** Row 2: replies arrive split at every byte, or many in one chunk. */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FrameDecoder } from '../../bridge/dist/wire/frames.js';
import { startFake } from './support.js';

function decode(chunks: Uint8Array[]): string[] {
  const payloads: string[] = [];
  const decoder = new FrameDecoder(1 << 24, (buffer, start, end) =>
    payloads.push(buffer.subarray(start, end).toString('hex')),
  );
  for (const chunk of chunks) decoder.push(Buffer.from(chunk));
  decoder.end();
  return payloads;
}

function frame(payload: Uint8Array): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(payload.length);
  return Buffer.concat([header, payload]);
}

test('every way to cut the bytes gives the same payloads', () => {
  const payloads = fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 8 });
  fc.assert(
    fc.property(payloads, fc.array(fc.nat(2_000), { maxLength: 20 }), (sent, cuts) => {
      const whole = Buffer.concat(sent.map(frame));
      const edges = [0, ...cuts.filter((cut) => cut < whole.length).sort((a, b) => a - b)];
      const chunks = edges.map((edge, index) => whole.subarray(edge, edges[index + 1]));
      expect(decode(chunks)).toEqual(sent.map((payload) => Buffer.from(payload).toString('hex')));
    }),
  );
});

test('a large frame in single bytes takes linear work', () => {
  const whole = frame(new Uint8Array(1 << 19));
  expect(decode([...whole].map((byte) => Uint8Array.of(byte)))).toHaveLength(1);
});

test('a runtime that writes single bytes is understood', async () => {
  const runtime = await startFake('bytewise');
  const values = Array.from({ length: 50 }, (_, index) => ({ index, text: 'é'.repeat(index) }));
  expect(await Promise.all(values.map((value) => runtime.echo(value)))).toEqual(values);
});
