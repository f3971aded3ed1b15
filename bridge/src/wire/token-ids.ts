/**
 * Token ids travel as binary values of little-endian unsigned 32-bit integers. This turns what was
 * received into a `Uint32Array` that owns its memory.
 */

import { endianness } from 'node:os';
import type { Value } from './decoder.js';
import { malformed } from './messages.js';

const BYTES = 4;
const IS_LITTLE_ENDIAN = endianness() === 'LE';
/** Below this a loop is faster than to ask a small array for its buffer. */
const VIEW_BYTES = 64;

/** Read token ids from a decoded value, which must be the caller's own. */
export function tokenIds(value: Value | undefined): Uint32Array {
  if (Array.isArray(value)) return Uint32Array.from(value, integer);
  if (!(value instanceof Uint8Array) || value.length % BYTES !== 0) {
    throw malformed('token ids are no binary value of 4 bytes an id');
  }
  if (IS_LITTLE_ENDIAN && value.length >= VIEW_BYTES && value.byteOffset % BYTES === 0) {
    return new Uint32Array(value.buffer, value.byteOffset, value.length / BYTES);
  }
  const ids = new Uint32Array(value.length / BYTES);
  for (let index = 0, at = 0; index < ids.length; index++, at += BYTES) {
    ids[index] =
      (value[at] as number) |
      ((value[at + 1] as number) << 8) |
      ((value[at + 2] as number) << 16) |
      ((value[at + 3] as number) << 24);
  }
  return ids;
}

function integer(value: Value): number {
  if (typeof value === 'number') return value;
  throw malformed('a token id is no integer');
}
