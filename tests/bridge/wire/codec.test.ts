import * as reference from '@msgpack/msgpack';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { InvalidRequestError, type IsthmusError } from '../../../bridge/src/errors.js';
import { decode, encode } from '../../../bridge/src/wire/codec.js';
import { failure, revive, vectors } from '../support.js';

interface Vector {
  readonly name: string;
  readonly hex: string;
  readonly value?: unknown;
  readonly error?: string;
  readonly encode?: false;
}

const all = vectors<Vector>('codec');
const valid = all.filter(({ error }) => error === undefined);
const invalid = all.filter(({ error }) => error !== undefined);
const bytes = ({ hex }: Vector): Buffer => Buffer.from(hex, 'hex');

describe('vectors', () => {
  test.each(valid)('$name is decoded', (vector) => {
    expect(decode(bytes(vector))).toEqual(revive(vector.value));
  });

  test.each(valid.filter((vector) => vector.encode !== false))('$name is encoded', (vector) => {
    expect(encode(revive(vector.value)).toString('hex')).toBe(vector.hex);
  });

  test.each(invalid)('$name is refused', (vector) => {
    expect(() => decode(bytes(vector))).toThrow(expect.objectContaining({ code: vector.error }));
  });
});

/** What another msgpack reads; it returns the class of the bytes it is given. */
const decoded = (payload: Buffer): unknown => reference.decode(new Uint8Array(payload));

/** Any value of the subset, to a modest depth. */
const values = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom(null, true, false),
    fc.maxSafeInteger(),
    fc.double().filter(isSendable),
    fc.string({ unit: 'binary' }),
    fc.string({ minLength: 100, maxLength: 400 }),
    fc.uint8Array({ maxLength: 300 }),
    fc.array(tie('value'), { maxLength: 20 }),
    fc.dictionary(fc.string().filter(isAllowedKey), tie('value'), {
      maxKeys: 20,
      noNullPrototype: true,
    }),
  ),
})).value;

/** The other msgpack sends -0 as 0; the vectors hold it. */
function isSendable(value: number): boolean {
  return !Object.is(value, -0) && (!Number.isInteger(value) || Number.isSafeInteger(value));
}

function isAllowedKey(key: string): boolean {
  return !['__proto__', 'constructor', 'prototype'].includes(key);
}

describe('any value of the subset', () => {
  test('comes back as it was', () => {
    fc.assert(
      fc.property(values, (value) => {
        expect(decode(encode(value))).toEqual(value);
      }),
    );
  });

  test('is read by another msgpack as we meant it', () => {
    fc.assert(
      fc.property(values, (value) => {
        expect(decoded(encode(value))).toEqual(value);
      }),
    );
  });

  test('written by another msgpack is read as it was meant', () => {
    fc.assert(
      fc.property(values, (value) => {
        expect(decode(Buffer.from(reference.encode(value)))).toEqual(value);
      }),
    );
  });
});

describe('arbitrary bytes', () => {
  test('are decoded or refused with a protocol error, and nothing else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (input) => {
        try {
          decode(Buffer.from(input));
        } catch (error) {
          expect(['DECODE_ERROR', 'DEPTH_EXCEEDED']).toContain((error as IsthmusError).code);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('cut anywhere from a valid message are refused', () => {
    const whole = encode([
      2,
      7,
      { text: 'héllo', ids: new Uint8Array(9), rest: [1.5, -300, null] },
    ]);
    for (let length = 0; length < whole.length; length++) {
      expect(() => decode(whole.subarray(0, length))).toThrow(/valid message/);
    }
  });
});

describe('what is decoded', () => {
  test('holds copies of binary values, whatever their size', () => {
    for (const size of [0, 1, 32, 33, 5_000]) {
      const input = encode(new Uint8Array(size).fill(7));
      const value = decode(input) as Uint8Array;
      input.fill(0);
      expect(value).toEqual(new Uint8Array(size).fill(7));
    }
  });

  test('keeps keys apart that look alike to the key cache', () => {
    const value = Object.fromEntries(['abca', 'acba', 'aéa', 'x'.repeat(40)].map((k, i) => [k, i]));
    const input = encode([value, value]);
    expect(decode(input)).toEqual([value, value]);
    expect(decode(input)).toEqual([value, value]);
  });

  test('may have keys that objects inherit', () => {
    const value = { toString: 1, hasOwnProperty: 2, valueOf: [3] };
    expect(decode(encode(value))).toEqual(value);
  });
});

describe('what cannot be sent', () => {
  test.each([
    ['an integer of 2^53', 2 ** 53, /beyond/],
    ['an integer of -2^53', -(2 ** 53), /beyond/],
    ['a bigint', 1n, /bigint/],
    ['a function', () => 1, /function/],
    ['a symbol', Symbol('x'), /symbol/],
    ['a date', new Date(0), /Date/],
    ['a Map', new Map(), /Map/],
    ['a class instance', new (class Point {})(), /Point/],
    ['floats in a typed array', new Float32Array(1), /Float32Array/],
    ['half a surrogate pair', 'a\ud800b', /surrogate/],
    ['half a surrogate pair in a long string', `${'é'.repeat(500)}\udc00`, /surrogate/],
    ['a key that is half a surrogate pair', { '\ud800': 1 }, /surrogate/],
    ['the key constructor', { constructor: 1 }, /refused/],
    ['the key __proto__', JSON.parse('{"__proto__": 1}'), /refused/],
  ])('%s is refused', async (_name, value, problem) => {
    const error = await failure(() => encode({ outer: [0, { inner: value }] }));
    expect(error).toBeInstanceOf(InvalidRequestError);
    expect(error.message).toMatch(problem);
    expect(error.details.field).toMatch(/^outer\.1\.inner/);
  });

  test('a value that contains itself is too deep', () => {
    const value: unknown[] = [];
    value.push(value);
    expect(() => encode(value)).toThrow(expect.objectContaining({ code: 'DEPTH_EXCEEDED' }));
  });

  test('half a surrogate pair is replaced when that is asked for', () => {
    expect(decode(encode(`a\ud800${'b'.repeat(200)}`, 'replace'))).toBe(
      `a\ufffd${'b'.repeat(200)}`,
    );
  });
});

describe('what is encoded', () => {
  test('leaves out undefined in maps and sends nil for it in arrays', () => {
    expect(decode(encode({ a: undefined, b: [undefined], c: 1 }))).toEqual({ b: [null], c: 1 });
  });

  test('holds token ids as little-endian binary', () => {
    const ids = new Uint32Array([1, 258, 4_294_967_295]);
    expect(encode(ids).toString('hex')).toBe('c40c0100000002010000ffffffff');
  });

  test('may come from another realm or have no prototype', () => {
    const bare = Object.assign(Object.create(null) as object, { a: 1 });
    expect(decode(encode(bare))).toEqual({ a: 1 });
  });

  test.each([15, 16, 65_535, 65_536])('has the right header for %i entries', (count) => {
    const map = Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, 0]));
    expect(Object.keys(decoded(encode(map)) as object)).toHaveLength(count);
    expect(decoded(encode(Array(count).fill(1)))).toHaveLength(count);
  });

  test.each([31, 32, 127, 128, 255, 256, 65_535, 65_536])(
    'has the right header for %i characters',
    (count) => {
      expect(decoded(encode('x'.repeat(count)))).toBe('x'.repeat(count));
      expect(decoded(encode('é'.repeat(count)))).toBe('é'.repeat(count));
      expect(decoded(encode(new Uint8Array(count)))).toEqual(new Uint8Array(count));
    },
  );
});
