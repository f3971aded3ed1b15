/**
 * The sending half of the codec: JavaScript values to the strict subset of msgpack that
 * docs/protocol.md (1.1) allows, written straight into one growable outgoing buffer.
 *
 * Promises that what it writes is accepted by every conforming decoder: what the subset cannot say
 * (unsafe integers, lone surrogates, class instances, deep nesting) is refused with the field's
 * name, and `rewind` takes a half-written message back. Knows nothing of frames or requests.
 */

import { InvalidRequestError, IsthmusError, ProtocolError } from '../errors.js';
import { DEPTH_LIMIT, OUTGOING_BUFFER_BYTES, OUTGOING_BUFFER_KEPT_BYTES } from '../limits.js';

/** What to do with a string that UTF-8 cannot carry. */
export type LoneSurrogates = 'error' | 'replace';

/** Below this length a loop over the characters is faster than a call into C++. */
const SHORT_STRING = 128;
/** The longest header and number are 9 bytes. */
const SCALAR_BYTES = 9;
const UINT32 = 2 ** 32;

export class Encoder {
  buffer: Buffer = Buffer.allocUnsafeSlow(OUTGOING_BUFFER_BYTES);
  position = 0;
  readonly #replaceSurrogates: boolean;
  readonly #limit: number;
  #start = 0;

  /** A message longer than `limitBytes` is refused while it is written. */
  constructor(limitBytes: number, loneSurrogates: LoneSurrogates = 'error') {
    this.#limit = limitBytes;
    this.#replaceSurrogates = loneSurrogates === 'replace';
  }

  /** Begin a message after `headerBytes` left free; return where the free bytes begin. */
  begin(headerBytes: number): number {
    const start = this.position;
    this.#start = start + headerBytes;
    this.reserve(headerBytes);
    this.position = this.#start;
    return start;
  }

  /** Forget everything written since `start`. */
  rewind(start: number): void {
    this.position = start;
    if (start === 0 && this.buffer.length > OUTGOING_BUFFER_KEPT_BYTES) this.renew();
  }

  /** Go on with a fresh buffer; the old one now belongs to whoever took it. */
  renew(spare?: Buffer): void {
    this.buffer = spare ?? Buffer.allocUnsafeSlow(OUTGOING_BUFFER_BYTES);
    this.position = 0;
  }

  /** Make room for `count` bytes. */
  reserve(count: number): void {
    if (this.position + count > this.buffer.length) this.#grow(count);
  }

  #grow(count: number): void {
    const size = this.position + count - this.#start;
    if (size > this.#limit) throw tooLarge(size, this.#limit);
    const grown = Buffer.allocUnsafeSlow(Math.max(2 * this.buffer.length, this.position + count));
    this.buffer.copy(grown, 0, 0, this.position);
    this.buffer = grown;
  }

  /** Write any value of the subset. `depth` is that of the array or map around it. */
  write(value: unknown, depth: number): void {
    switch (typeof value) {
      case 'string':
        return this.string(value);
      case 'number':
        return this.number(value);
      case 'boolean':
        return this.byte(value ? 0xc3 : 0xc2);
      case 'undefined':
        return this.byte(0xc0);
      case 'object':
        return value === null ? this.byte(0xc0) : this.#object(value, depth + 1);
      default:
        throw unsendable(`a ${typeof value} cannot be sent`);
    }
  }

  byte(value: number): void {
    this.reserve(1);
    this.buffer[this.position++] = value;
  }

  /** Write a number: an integer in its shortest form, anything else as a float 64. */
  number(value: number): void {
    if (value >= 0 && value < 0x80 && (value | 0) === value && !Object.is(value, -0)) {
      this.reserve(1);
      this.buffer[this.position++] = value;
    } else if (Number.isInteger(value) && value !== 0) {
      this.#integer(value);
    } else {
      this.reserve(SCALAR_BYTES);
      this.buffer[this.position] = 0xcb;
      this.buffer.writeDoubleBE(value, this.position + 1);
      this.position += 9;
    }
  }

  #integer(value: number): void {
    if (!Number.isSafeInteger(value)) {
      throw unsendable(`the integer ${value} is beyond ±(2^53 - 1)`);
    }
    this.reserve(SCALAR_BYTES);
    if (value >= UINT32) return this.#wide(0xcf, value);
    if (value >= 0) return this.unsigned(value);
    if (value >= -0x20) this.buffer[this.position++] = value & 0xff;
    else if (value >= -0x80) this.#sized(0xd0, 1, value);
    else if (value >= -0x8000) this.#sized(0xd1, 2, value);
    else if (value >= -0x80000000) this.#sized(0xd2, 4, value);
    else this.#wide(0xd3, value);
  }

  /** Write an unsigned 32-bit integer: ids, counts, kinds. */
  unsigned(value: number): void {
    this.reserve(SCALAR_BYTES);
    if (value < 0x80) this.buffer[this.position++] = value;
    else if (value < 0x100) this.#sized(0xcc, 1, value);
    else if (value < 0x10000) this.#sized(0xcd, 2, value);
    else this.#sized(0xce, 4, value);
  }

  /** Write `type` and the low `width` bytes of `value`. Room has been reserved. */
  #sized(type: number, width: 1 | 2 | 4, value: number): void {
    const { buffer } = this;
    let at = this.position;
    buffer[at++] = type;
    if (width === 4) {
      buffer[at++] = value >>> 24;
      buffer[at++] = value >>> 16;
    }
    if (width >= 2) buffer[at++] = value >>> 8;
    buffer[at++] = value;
    this.position = at;
  }

  #wide(type: number, value: number): void {
    const high = Math.floor(value / UINT32);
    this.buffer[this.position] = type;
    this.buffer.writeUInt32BE(high >>> 0, this.position + 1);
    this.buffer.writeUInt32BE(value - high * UINT32, this.position + 5);
    this.position += 9;
  }

  string(value: string): void {
    const { length } = value;
    if (length >= SHORT_STRING) return this.#longString(value);
    this.reserve(length + 2);
    const { buffer } = this;
    const start = this.position;
    let at = start;
    if (length >= 0x20) buffer[at++] = 0xd9;
    buffer[at++] = length < 0x20 ? 0xa0 | length : length;
    for (let index = 0; index < length; index++) {
      const code = value.charCodeAt(index);
      if (code >= 0x80) return this.#longString(value);
      buffer[at++] = code;
    }
    this.position = at;
  }

  #longString(value: string): void {
    if (value.length > this.#limit) throw tooLarge(value.length, this.#limit);
    const size = Buffer.byteLength(value);
    if (size !== value.length && !this.#replaceSurrogates && !value.isWellFormed()) {
      throw unsendable(
        'a string holds half of a surrogate pair, which UTF-8 cannot carry; ' +
          "pass it through toWellFormed(), or set loneSurrogates: 'replace'",
      );
    }
    this.#header(size, 0xa0, 0x20, 0xd9);
    this.reserve(size);
    this.position += this.buffer.write(value, this.position, size);
  }

  binary(value: Uint8Array): void {
    this.#header(value.length, 0, 0, 0xc4);
    this.reserve(value.length);
    this.buffer.set(value, this.position);
    this.position += value.length;
  }

  arrayHeader(count: number): void {
    this.#header(count, 0x90, 0x10, 0xdb);
  }

  mapHeader(count: number): void {
    this.#header(count, 0x80, 0x10, 0xdd);
  }

  /** Write the size of a string, binary, array or map. `first` is the type byte of its 8-bit form;
   * arrays and maps have none, so that theirs would lie before the 16-bit one. */
  #header(size: number, fix: number, fixCount: number, first: number): void {
    this.reserve(SCALAR_BYTES);
    if (size < fixCount) this.buffer[this.position++] = fix | size;
    else if (size < 0x100 && fixCount !== 0x10) this.#sized(first, 1, size);
    else if (size < 0x10000) this.#sized(first + 1, 2, size);
    else this.#sized(first + 2, 4, size);
  }

  #object(value: object, depth: number): void {
    if (value instanceof Uint8Array) return this.binary(value);
    if (value instanceof Uint32Array) return this.tokenIds(value);
    if (depth > DEPTH_LIMIT) throw tooDeep();
    if (Array.isArray(value)) return this.#array(value, depth);
    if (!isPlain(value)) {
      throw unsendable(`a ${value.constructor?.name ?? 'class instance'} cannot be sent`);
    }
    this.map(value as Record<string, unknown>, depth);
  }

  /** Write token ids: little-endian unsigned 32-bit integers, whatever this machine's order. */
  tokenIds(ids: Uint32Array): void {
    this.#header(ids.byteLength, 0, 0, 0xc4);
    this.reserve(ids.byteLength);
    const { buffer } = this;
    let at = this.position;
    for (let index = 0; index < ids.length; index++) {
      const id = ids[index] as number;
      buffer[at++] = id;
      buffer[at++] = id >>> 8;
      buffer[at++] = id >>> 16;
      buffer[at++] = id >>> 24;
    }
    this.position = at;
  }

  #array(values: readonly unknown[], depth: number): void {
    this.arrayHeader(values.length);
    let index = 0;
    try {
      for (; index < values.length; index++) this.write(values[index], depth);
    } catch (error) {
      throw at(error, index);
    }
  }

  /** Write a map at `depth`; values that are undefined are left out. */
  map(values: Readonly<Record<string, unknown>>, depth: number): void {
    const keys = Object.keys(values);
    let count = keys.length;
    for (const key of keys) if (values[key] === undefined) count--;
    this.mapHeader(count);
    let field = '';
    try {
      for (const key of keys) {
        const value = values[key];
        if (value === undefined) continue;
        field = key;
        this.#key(key);
        this.write(value, depth);
      }
    } catch (error) {
      throw at(error, field);
    }
  }

  #key(key: string): void {
    if (key === '__proto__' || key === 'constructor' || key === 'prototype') {
      throw unsendable('this key is refused by the protocol');
    }
    this.string(key);
  }
}

/** Whether `value` is an object of no class, of this realm or another. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function unsendable(problem: string): InvalidRequestError {
  return new InvalidRequestError('INVALID_REQUEST', problem, { details: { problem } });
}

function tooDeep(): ProtocolError {
  const problem = `the value nests deeper than ${DEPTH_LIMIT}`;
  return new ProtocolError('DEPTH_EXCEEDED', problem, { details: { problem } });
}

export function tooLarge(size: number, limit: number): ProtocolError {
  return new ProtocolError(
    'LOCAL_PROTOCOL_ERROR',
    `the message is at least ${size} bytes long, over the limit of ${limit}; nothing was sent`,
    { details: { limit } },
  );
}

/** Put one more step in front of the path that an encoding error names. */
function at(error: unknown, step: string | number): unknown {
  const problem = error instanceof IsthmusError ? error.details.problem : undefined;
  if (!(error instanceof IsthmusError) || problem === undefined) return error;
  const inner = error.details.field;
  const field = inner === undefined ? `${step}` : `${step}.${inner}`;
  const details = { problem, field };
  const ErrorClass = error instanceof InvalidRequestError ? InvalidRequestError : ProtocolError;
  return new ErrorClass(error.code, `${field}: ${problem}`, { details });
}
