/**
 * The receiving half of the codec: the strict subset of msgpack (docs/protocol.md, 1.1) to
 * JavaScript values.
 *
 * Refuses what the subset does not hold, takes no memory on the word of a header, and copies binary
 * values: nothing returned is a view of a buffer that is read into again. It reads value by value, so
 * that a message needs no array around its elements. Knows nothing of frames or messages.
 */

import { isUtf8 } from 'node:buffer';
import { ProtocolError } from '../errors.js';
import { DEPTH_LIMIT } from '../limits.js';
import { KeyCache } from './key-cache.js';

/** What a message may hold. */
export type Value = null | boolean | number | string | Uint8Array | Value[] | WireMap;

/** A map of the wire, with its field names as they travelled. */
export interface WireMap {
  [key: string]: Value;
}

const UINT32 = 2 ** 32;
/** Up to this length a string is read by a loop; beyond it, by one call into C++. */
const SHORT_STRING = 16;
/** A small binary is copied faster by a loop than by `set`. */
const SHORT_BINARY = 32;
/** Copying a binary value of this size takes a millisecond or more. */
const LONG_BINARY = 1024 * 1024;

export class Decoder {
  position = 0;
  #buffer: Buffer = Buffer.alloc(0);
  #end = 0;
  #isOwned = false;
  readonly #keys = new KeyCache();

  /** Read from `start` to `end` of `buffer` from now on. When nobody else will write to it
   * (`isOwned`), long binary values may be views of it. */
  reset(buffer: Buffer, start: number, end: number, isOwned = false): void {
    this.#buffer = buffer;
    this.#isOwned = isOwned;
    this.position = start;
    this.#end = end;
  }

  /** Throw unless everything has been read. */
  finish(): void {
    if (this.position !== this.#end) throw invalid('bytes follow the message');
  }

  /** Read one value of any type. `depth` is that of the array or map around it. */
  value(depth: number): Value {
    const type = this.#byte();
    if (type < 0x80) return type;
    if (type < 0x90) return this.#map(type & 0x0f, depth + 1);
    if (type < 0xa0) return this.#array(type & 0x0f, depth + 1);
    if (type < 0xc0) return this.#string(type & 0x1f);
    if (type >= 0xe0) return type - 0x100;
    return this.#typed(type, depth);
  }

  #typed(type: number, depth: number): Value {
    switch (type) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#binary(this.#unsigned(1 << (type - 0xc4)));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#string(this.#unsigned(1 << (type - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.#array(this.#unsigned(type === 0xdc ? 2 : 4), depth + 1);
      case 0xde:
      case 0xdf:
        return this.#map(this.#unsigned(type === 0xde ? 2 : 4), depth + 1);
      default:
        return this.#number(type);
    }
  }

  #number(type: number): number {
    switch (type) {
      case 0xca:
        return this.#buffer.readFloatBE(this.#take(4));
      case 0xcb:
        return this.#buffer.readDoubleBE(this.#take(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.#unsigned(1 << (type - 0xcc));
      case 0xcf:
        return this.#safe(this.#unsigned(4), this.#unsigned(4));
      case 0xd0:
        return (this.#unsigned(1) << 24) >> 24;
      case 0xd1:
        return (this.#unsigned(2) << 16) >> 16;
      case 0xd2:
        return this.#unsigned(4) | 0;
      case 0xd3:
        return this.#safe(this.#unsigned(4) | 0, this.#unsigned(4));
      default:
        throw invalid(`the type byte 0x${type.toString(16)} is refused`);
    }
  }

  #safe(high: number, low: number): number {
    const value = high * UINT32 + low;
    if (!Number.isSafeInteger(value)) throw invalid('an integer is beyond ±(2^53 - 1)');
    return value;
  }

  /** Read the size of an array; what the type byte says must be an array. */
  arrayHeader(): number {
    const type = this.#byte();
    if (type >= 0x90 && type < 0xa0) return type & 0x0f;
    if (type === 0xdc) return this.#unsigned(2);
    if (type === 0xdd) return this.#unsigned(4);
    return -1;
  }

  #byte(): number {
    if (this.position >= this.#end) throw cutShort();
    return this.#buffer[this.position++] as number;
  }

  /** Step over `count` bytes; return where they begin. */
  #take(count: number): number {
    const start = this.position;
    if (count > this.#end - start) throw cutShort();
    this.position = start + count;
    return start;
  }

  #unsigned(width: number): number {
    let at = this.#take(width);
    const buffer = this.#buffer;
    if (width === 1) return buffer[at] as number;
    let value = ((buffer[at++] as number) << 8) | (buffer[at++] as number);
    if (width === 2) return value;
    value = (value << 8) | (buffer[at++] as number);
    return ((value << 8) | (buffer[at] as number)) >>> 0;
  }

  #array(count: number, depth: number): Value[] {
    if (depth > DEPTH_LIMIT) throw tooDeep();
    if (count > this.#end - this.position) throw cutShort();
    const values: Value[] = [];
    for (let index = 0; index < count; index++) values.push(this.value(depth));
    return values;
  }

  #map(count: number, depth: number): WireMap {
    if (depth > DEPTH_LIMIT) throw tooDeep();
    if (2 * count > this.#end - this.position) throw cutShort();
    const values: WireMap = {};
    for (let index = 0; index < count; index++) {
      const key = this.#key();
      values[key] = this.value(depth);
    }
    if (count > 1 && Object.keys(values).length !== count) throw invalid('a key stands twice');
    return values;
  }

  #key(): string {
    const type = this.#byte();
    let length: number;
    if (type >= 0xa0 && type < 0xc0) length = type & 0x1f;
    else if (type >= 0xd9 && type <= 0xdb) length = this.#unsigned(1 << (type - 0xd9));
    else throw invalid('a map key is not a string');
    const start = this.#take(length);
    const known = this.#keys.find(this.#buffer, start, length);
    if (known !== undefined) return known;
    const key = this.#text(start, start + length);
    if (key === '__proto__' || key === 'constructor' || key === 'prototype') {
      throw invalid(`the key ${key} is refused`);
    }
    this.#keys.keep(key);
    return key;
  }

  #string(length: number): string {
    const start = this.#take(length);
    if (length > SHORT_STRING) return this.#text(start, start + length);
    let text = '';
    for (let at = start; at < start + length; at++) {
      const code = this.#buffer[at] as number;
      if (code >= 0x80) return this.#text(start, start + length);
      text += String.fromCharCode(code);
    }
    return text;
  }

  /** Node replaces what is not UTF-8 by U+FFFD: look closer only where one turns up. */
  #text(start: number, end: number): string {
    const text = this.#buffer.toString('utf8', start, end);
    if (text.includes('\ufffd') && !isUtf8(this.#buffer.subarray(start, end))) {
      throw invalid('a string is not UTF-8');
    }
    return text;
  }

  #binary(length: number): Uint8Array {
    const start = this.#take(length);
    if (this.#isOwned && length > LONG_BINARY) {
      const { buffer, byteOffset } = this.#buffer;
      return new Uint8Array(buffer, byteOffset + start, length);
    }
    const bytes = new Uint8Array(length);
    if (length > SHORT_BINARY) bytes.set(this.#buffer.subarray(start, start + length));
    else for (let at = 0; at < length; at++) bytes[at] = this.#buffer[start + at] as number;
    return bytes;
  }
}

function invalid(problem: string): ProtocolError {
  return new ProtocolError('DECODE_ERROR', `the payload is not a valid message: ${problem}`);
}

function cutShort(): ProtocolError {
  return invalid('it ends before what its headers promise');
}

function tooDeep(): ProtocolError {
  return new ProtocolError('DEPTH_EXCEEDED', `a message nests deeper than ${DEPTH_LIMIT}`);
}
