/**
 * The messages of docs/protocol.md, section 2: how the host's are written and the runtime's read.
 *
 * The hot ones (result, delta, end) are read straight into the receiver's methods, without an array
 * around their elements, and nothing is delivered before the whole payload has been checked.
 * Elements after those listed are ignored. Knows nothing of sockets, promises or which ids are in
 * use.
 */

import { type IsthmusError, makeError, ProtocolError } from '../errors.js';
import { CREDIT_LIMIT, HOST_VERSION, ID_LIMIT, PROTOCOL_VERSION } from '../limits.js';
import type { Decoder, Value, WireMap } from './decoder.js';
import type { Encoder } from './encoder.js';
import { camelKeys } from './fields.js';

export const Kind = {
  HELLO: 0,
  REQUEST: 1,
  RESULT: 2,
  ERROR: 3,
  DELTA: 4,
  END: 5,
  CANCEL: 6,
  CREDIT: 7,
  EVENT: 8,
  PING: 9,
  PONG: 10,
  PIECE: 11,
} as const;

export const PieceFlag = { MORE: 0, LAST: 1, ABANDONED: 2 } as const;

/** Takes what the runtime sends, one method a kind. */
export interface MessageReceiver {
  onHello(hello: WireMap): void;
  onResult(id: number, value: Value): void;
  onError(id: number | null, error: IsthmusError): void;
  onDelta(id: number, count: number, payload: Value): void;
  onEvent(name: string, payload: Value): void;
  onPong(nonce: Value, health: WireMap): void;
  onPiece(channel: number, flag: number, data: Uint8Array): void;
}

/** Write a request; the options element is left out when it would say nothing. */
export function writeRequest(
  encoder: Encoder,
  id: number,
  method: string,
  params: Readonly<Record<string, unknown>>,
  deadlineMs: number | undefined,
  credit: number | undefined,
): void {
  const hasOptions = deadlineMs !== undefined || credit !== undefined;
  encoder.byte(hasOptions ? 0x95 : 0x94);
  encoder.byte(Kind.REQUEST);
  encoder.unsigned(id);
  encoder.string(method);
  encoder.map(params, 2);
  if (hasOptions) encoder.map({ deadline_ms: deadlineMs, credit }, 2);
}

export function writeHello(encoder: Encoder): void {
  encoder.write(
    [Kind.HELLO, { protocol: PROTOCOL_VERSION, host: `isthmus-node/${HOST_VERSION}` }],
    0,
  );
}

export function writeCancel(encoder: Encoder, id: number): void {
  encoder.byte(0x92);
  encoder.byte(Kind.CANCEL);
  encoder.unsigned(id);
}

export function writeCredit(encoder: Encoder, id: number, count: number): void {
  encoder.byte(0x93);
  encoder.byte(Kind.CREDIT);
  encoder.unsigned(id);
  encoder.unsigned(count);
}

export function writePing(encoder: Encoder, nonce: number): void {
  encoder.byte(0x92);
  encoder.byte(Kind.PING);
  encoder.unsigned(nonce);
}

export function writePiece(
  encoder: Encoder,
  channel: number,
  flag: number,
  data: Uint8Array,
): void {
  encoder.byte(0x94);
  encoder.byte(Kind.PIECE);
  encoder.unsigned(channel);
  encoder.unsigned(flag);
  encoder.binary(data);
}

/** Elements of each kind that the runtime sends, the kind itself included. */
const SIZES: readonly number[] = [2, 0, 3, 3, 4, 3, 0, 0, 3, 0, 3, 4];

/** Read the one message that `decoder` was set to and hand it to `receiver`. */
export function readMessage(decoder: Decoder, receiver: MessageReceiver): void {
  const size = decoder.arrayHeader();
  const kind = size > 0 ? decoder.value(1) : -1;
  const expected = typeof kind === 'number' ? SIZES[kind] : undefined;
  if (!expected || size < expected) throw malformed(`it is no message of a runtime`);
  const first = decoder.value(1);
  const second = expected > 2 ? decoder.value(1) : null;
  const third = expected > 3 ? decoder.value(1) : null;
  for (let extra = expected; extra < size; extra++) decoder.value(1);
  decoder.finish();
  switch (kind) {
    case Kind.RESULT:
    case Kind.END:
      return receiver.onResult(id(first), second);
    case Kind.DELTA:
      return receiver.onDelta(id(first), count(second), third);
    default:
      deliverRare(receiver, kind as number, first, second, third);
  }
}

function deliverRare(
  receiver: MessageReceiver,
  kind: number,
  first: Value,
  second: Value,
  third: Value,
): void {
  switch (kind) {
    case Kind.HELLO:
      return receiver.onHello(map(first));
    case Kind.ERROR:
      return receiver.onError(first === null ? null : id(first), errorFromWire(map(second)));
    case Kind.EVENT:
      return receiver.onEvent(text(first), second);
    case Kind.PONG:
      return receiver.onPong(first, map(second));
    case Kind.PIECE:
      return receiver.onPiece(id(first), flag(second), binary(third));
  }
}

/** Find the request that a payload which cannot be read would have answered, so that it alone
 * fails: an array header, a kind from result to end, and an id. */
export function peekRequestId(buffer: Buffer, start: number, end: number): number | undefined {
  const head = buffer[start] ?? 0;
  const kind = buffer[start + 1] ?? 0;
  if (end - start < 3 || head < 0x93 || head > 0x9f) return undefined;
  if (kind < Kind.RESULT || kind > Kind.END) return undefined;
  const type = buffer[start + 2] as number;
  if (type < 0x80) return type;
  const width = type >= 0xcc && type <= 0xce ? 1 << (type - 0xcc) : 0;
  if (width === 0 || start + 3 + width > end) return undefined;
  return buffer.readUIntBE(start + 3, width);
}

/** Make the error that an error map of the wire describes; what is missing is filled in. */
export function errorFromWire(error: WireMap): IsthmusError {
  const { code, message, retryable, phase, retry_after_ms: retryAfterMs, details } = error;
  return makeError(
    typeof code === 'string' ? code : 'INTERNAL',
    typeof message === 'string' ? message : 'the runtime gave no message',
    {
      retryable: typeof retryable === 'boolean' ? retryable : undefined,
      phase: typeof phase === 'string' ? phase : undefined,
      retryAfterMs: typeof retryAfterMs === 'number' ? retryAfterMs : undefined,
      details: isMap(details) ? camelKeys(details) : undefined,
    },
  );
}

export function isMap(value: Value | undefined): value is WireMap {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Uint8Array)
  );
}

/** A result that must be a map. */
export function mapOf(value: Value): WireMap {
  if (isMap(value)) return value;
  throw malformed('a result that must be a map is none');
}

/** The error for a message, or a part of one, that has the wrong shape. */
export function malformed(problem: string): ProtocolError {
  return new ProtocolError(
    'REMOTE_PROTOCOL_ERROR',
    `the runtime sent a malformed message: ${problem}`,
    { details: { kind: 'shape' } },
  );
}

function id(value: Value): number {
  if (isIntegerBelow(value, ID_LIMIT)) return value;
  throw malformed('its id is no integer from 0 to 2^32 - 1');
}

function count(value: Value): number {
  if (value !== 0 && isIntegerBelow(value, CREDIT_LIMIT)) return value;
  throw malformed('its count is no integer from 1 to 2^31 - 1');
}

function flag(value: Value): number {
  if (isIntegerBelow(value, PieceFlag.ABANDONED + 1)) return value;
  throw malformed('the flag of a piece is not 0, 1 or 2');
}

function isIntegerBelow(value: Value, limit: number): value is number {
  return typeof value === 'number' && value >= 0 && value < limit && Number.isInteger(value);
}

function text(value: Value): string {
  if (typeof value === 'string') return value;
  throw malformed('the name of an event is no string');
}

function binary(value: Value): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw malformed('the data of a piece is not binary');
}

function map(value: Value): WireMap {
  if (isMap(value)) return value;
  throw malformed('an element that must be a map is none');
}
