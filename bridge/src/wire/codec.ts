/** The codec of one message outside a connection: for tests, tools and recorded traffic. */

import { MESSAGE_LIMIT_BYTES } from '../limits.js';
import { Decoder, type Value } from './decoder.js';
import { Encoder, type LoneSurrogates } from './encoder.js';

/** Encode one value as a payload. Throws an IsthmusError that names what cannot be sent. */
export function encode(value: unknown, loneSurrogates: LoneSurrogates = 'error'): Buffer {
  const encoder = new Encoder(MESSAGE_LIMIT_BYTES, loneSurrogates);
  encoder.begin(0);
  encoder.write(value, 0);
  return Buffer.from(encoder.buffer.subarray(0, encoder.position));
}

/** Decode one payload. Throws a ProtocolError with code DECODE_ERROR or DEPTH_EXCEEDED. */
export function decode(payload: Buffer): Value {
  const decoder = new Decoder();
  decoder.reset(payload, 0, payload.length);
  const value = decoder.value(0);
  decoder.finish();
  return value;
}
