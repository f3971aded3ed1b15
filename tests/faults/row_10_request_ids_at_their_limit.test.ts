/** Row 10: request ids run to 2^32 - 1, wrap over those in use, and stay integers on the wire. */

import { decode } from '@msgpack/msgpack';
import { expect, test } from 'vitest';
import { Call } from '../../bridge/dist/connection/request.js';
import { RequestTable } from '../../bridge/dist/connection/request-table.js';
import { Encoder } from '../../bridge/dist/wire/encoder.js';
import { writeRequest } from '../../bridge/dist/wire/messages.js';

const LAST = 2 ** 32 - 1;
const nothing = (): void => undefined;

function add(table: RequestTable): number {
  const request = new Call(nothing, nothing, nothing);
  request.id = table.takeId();
  table.add(request);
  return request.id;
}

test('the counter wraps over ids in use and gives none twice', () => {
  const table = new RequestTable(1_000, LAST - 1);
  const ids = Array.from({ length: 6 }, () => add(table));
  expect(ids).toEqual([LAST - 1, LAST, 0, 1, 2, 3]);
  const again = new RequestTable(1_000, 0);
  expect([add(again), add(again)]).toEqual([0, 1]);
  expect(new Set([...ids, ...Array.from({ length: 50 }, () => add(table))]).size).toBe(56);
});

test.each([0, 127, 128, 65_535, 65_536, 2 ** 31, LAST])(
  'the id %i is an integer on the wire',
  (id) => {
    const encoder = new Encoder(1 << 20);
    const start = encoder.begin(0);
    writeRequest(encoder, id, 'echo', { data: 'x' }, undefined, undefined);
    const bytes = Buffer.from(encoder.buffer.subarray(start, encoder.position));
    expect(bytes.includes(0xcb) || bytes.includes(0xcf)).toBe(false);
    expect(decode(bytes)).toEqual([1, id, 'echo', { data: 'x' }]);
  },
);
