/**
 * What the runtime's hello decides for the connection: whether we speak the same version, and how
 * much it takes at once. Values that make no sense fall back to ours.
 */

import { ProtocolError } from '../errors.js';
import {
  FRAME_LIMIT_BYTES,
  HOST_VERSION,
  IN_FLIGHT_LIMIT,
  MESSAGE_LIMIT_BYTES,
  PIECE_BYTES,
  PROTOCOL_VERSION,
} from '../limits.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { isMap } from '../wire/messages.js';

/** The most that a piece adds to its data: array, kind, channel, flag and size. */
const PIECE_OVERHEAD = 16;

export interface PeerLimits {
  readonly messageBytes: number;
  readonly pieceBytes: number;
  readonly inFlight: number;
}

/** Throw unless the runtime speaks our version. */
export function checkVersion(hello: WireMap): void {
  if (hello.protocol === PROTOCOL_VERSION) return;
  throw new ProtocolError(
    'VERSION_MISMATCH',
    `the runtime (isthmus ${shown(hello.runtime)}) speaks protocol ${shown(hello.protocol)}, this ` +
      `host (isthmus ${HOST_VERSION} for Node) protocol ${PROTOCOL_VERSION}; install the same ` +
      'version of both: npm install isthmus, and pip install isthmus in the Python that is used',
    { details: { host: PROTOCOL_VERSION, runtime: hello.protocol } },
  );
}

export function peerLimits(hello: WireMap): PeerLimits {
  const limits = isMap(hello.limits) ? hello.limits : {};
  const frameBytes = positive(limits.frame_bytes, FRAME_LIMIT_BYTES);
  return {
    messageBytes: positive(limits.message_bytes, MESSAGE_LIMIT_BYTES),
    pieceBytes: Math.min(positive(limits.piece_bytes, PIECE_BYTES), frameBytes - PIECE_OVERHEAD),
    inFlight: positive(limits.in_flight, IN_FLIGHT_LIMIT),
  };
}

function positive(value: Value | undefined, fallback: number): number {
  return typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : fallback;
}

function shown(value: Value | undefined): string {
  return typeof value === 'string' || typeof value === 'number' ? `${value}` : 'unknown';
}
