import { describe, expect, test } from 'vitest';
import type { IsthmusError } from '../../../bridge/src/errors.js';
import { decode, encode } from '../../../bridge/src/wire/codec.js';
import { Decoder } from '../../../bridge/src/wire/decoder.js';
import { Encoder } from '../../../bridge/src/wire/encoder.js';
import {
  type MessageReceiver,
  peekRequestId,
  readMessage,
  writeCancel,
  writeCredit,
  writePiece,
  writePing,
  writeRequest,
} from '../../../bridge/src/wire/messages.js';
import { failure, revive, vectors } from '../support.js';

interface Vector {
  readonly name: string;
  readonly from: 'host' | 'runtime';
  readonly value: unknown;
  readonly error?: string;
}

class Recorder implements MessageReceiver {
  readonly calls: unknown[][] = [];
  onHello = (...args: unknown[]): number => this.calls.push(['hello', ...args]);
  onResult = (...args: unknown[]): number => this.calls.push(['result', ...args]);
  onError = (id: number | null, error: IsthmusError): number =>
    this.calls.push(['error', id, error.code]);
  onDelta = (...args: unknown[]): number => this.calls.push(['delta', ...args]);
  onEvent = (...args: unknown[]): number => this.calls.push(['event', ...args]);
  onPong = (...args: unknown[]): number => this.calls.push(['pong', ...args]);
  onPiece = (...args: unknown[]): number => this.calls.push(['piece', ...args]);
}

function read(value: unknown): unknown[][] {
  const recorder = new Recorder();
  const payload = encode(value);
  const decoder = new Decoder();
  decoder.reset(payload, 0, payload.length);
  readMessage(decoder, recorder);
  return recorder.calls;
}

function written(write: (encoder: Encoder) => void): unknown {
  const encoder = new Encoder(1 << 20);
  encoder.begin(0);
  write(encoder);
  return decode(encoder.buffer.subarray(0, encoder.position));
}

const all = vectors<Vector>('messages').map((row) => ({ ...row, value: revive(row.value) }));

describe('vectors', () => {
  test.each(all.filter(({ error }) => error !== undefined))('$name is refused', async (row) => {
    expect((await failure(() => read(row.value))).code).toBe('REMOTE_PROTOCOL_ERROR');
  });

  test.each(all.filter(({ from, error }) => from === 'runtime' && error === undefined))(
    '$name is delivered',
    ({ value }) => expect(read(value)).toHaveLength(1),
  );
});

describe('a message of the runtime', () => {
  test('is delivered by its kind', () => {
    expect(read([2, 7, { a: 1 }])).toEqual([['result', 7, { a: 1 }]]);
    expect(read([5, 7, null])).toEqual([['result', 7, null]]);
    expect(read([4, 7, 2, ['a', 'b']])).toEqual([['delta', 7, 2, ['a', 'b']]]);
    expect(read([3, null, { code: 'INTERNAL' }])).toEqual([['error', null, 'INTERNAL']]);
    expect(read([10, 3, {}])).toEqual([['pong', 3, {}]]);
  });

  test('may have elements that this version does not know', () => {
    expect(read([2, 7, 'x', 'later', { more: 1 }])).toEqual([['result', 7, 'x']]);
  });

  test('is not delivered when bytes follow it', () => {
    const payload = Buffer.concat([encode([2, 7, 1]), Buffer.from([0xc0])]);
    const recorder = new Recorder();
    const decoder = new Decoder();
    decoder.reset(payload, 0, payload.length);
    expect(() => readMessage(decoder, recorder)).toThrow(/follow/);
    expect(recorder.calls).toEqual([]);
  });

  test.each([
    ['a delta of 0 items', [4, 7, 0, []]],
    ['a delta with a count of 1.5', [4, 7, 1.5, []]],
    ['an error that is no map', [3, 7, 'text']],
    ['an event whose name is no string', [8, 1, {}]],
    ['a pong without health', [10, 1, null]],
    ['a hello that is no map', [0, 'hello']],
    ['a request', [1, 7, 'echo', {}]],
  ])('is refused when it is %s', (_name, value) => {
    expect(() => read(value)).toThrow(expect.objectContaining({ code: 'REMOTE_PROTOCOL_ERROR' }));
  });
});

describe('a message of the host', () => {
  test('has the shape that the vectors show', () => {
    const request = (options: [number?, number?]) =>
      written((encoder) => writeRequest(encoder, 7, 'echo', { data: 1 }, ...pad(options)));
    expect(request([])).toEqual([1, 7, 'echo', { data: 1 }]);
    expect(request([100])).toEqual([1, 7, 'echo', { data: 1 }, { deadline_ms: 100 }]);
    expect(request([100, 0])).toEqual([1, 7, 'echo', { data: 1 }, { deadline_ms: 100, credit: 0 }]);
    expect(written((encoder) => writeCancel(encoder, 4_294_967_295))).toEqual([6, 4_294_967_295]);
    expect(written((encoder) => writeCredit(encoder, 7, 128))).toEqual([7, 7, 128]);
    expect(written((encoder) => writePing(encoder, 1))).toEqual([9, 1]);
    const data = new Uint8Array([1, 2, 3]);
    expect(written((encoder) => writePiece(encoder, 0, 1, data))).toEqual([11, 0, 1, data]);
  });
});

function pad([deadline, credit]: [number?, number?]): [number | undefined, number | undefined] {
  return [deadline, credit];
}

describe('the request of a payload that cannot be read', () => {
  const peek = (hex: string) => peekRequestId(Buffer.from(hex, 'hex'), 0, hex.length / 2);

  test.each([
    ['930207c1', 7],
    ['9302cc80c1', 128],
    ['9402cdffffc1', 65_535],
    ['9305ceffffffffc1', 4_294_967_295],
    ['940407c1', 7],
  ])('%s is found', (hex, id) => expect(peek(hex)).toBe(id));

  test.each(['', '93', '9302', '930807c1', '9302a161', '9302ce0000', 'c10207', '920207'])(
    '%s is not made up',
    (hex) => expect(peek(hex)).toBeUndefined(),
  );
});
