/**
 * Incoming messages that travel in pieces, put together again within limits (section 6).
 *
 * Takes pieces and gives back whole payloads; does not know what they say.
 */

import { ProtocolError } from '../errors.js';
import { PieceFlag } from './messages.js';

/** A message so far: `size` bytes of `bytes`, which doubles as it fills. Joining 16 MiB only at the
 * end would hold every reply for 10 ms. */
interface OpenMessage {
  bytes: Buffer;
  size: number;
}

const FIRST_BYTES = 1024 * 1024;

export class PieceAssembler {
  readonly #open = new Map<number, OpenMessage>();
  readonly #limitBytes: number;
  readonly #openLimit: number;

  constructor(limitBytes: number, openLimit: number) {
    this.#limitBytes = limitBytes;
    this.#openLimit = openLimit;
  }

  /** Take one piece; return the whole payload when it was the last. */
  add(channel: number, flag: number, data: Uint8Array): Buffer | undefined {
    if (flag === PieceFlag.ABANDONED) {
      this.#open.delete(channel);
      return undefined;
    }
    const message = this.#open.get(channel) ?? this.#begin(channel);
    if (message.size + data.length > this.#limitBytes) {
      throw refused(`a message in pieces is over the limit of ${this.#limitBytes} bytes`);
    }
    append(message, data);
    if (flag === PieceFlag.MORE) return undefined;
    this.#open.delete(channel);
    return message.bytes.subarray(0, message.size);
  }

  #begin(channel: number): OpenMessage {
    if (this.#open.size >= this.#openLimit) {
      throw refused(`more than ${this.#openLimit} messages are in pieces at once`);
    }
    const message = { bytes: Buffer.allocUnsafeSlow(FIRST_BYTES), size: 0 };
    this.#open.set(channel, message);
    return message;
  }
}

function append(message: OpenMessage, data: Uint8Array): void {
  const size = message.size + data.length;
  if (size > message.bytes.length) {
    const grown = Buffer.allocUnsafeSlow(Math.max(2 * message.bytes.length, size));
    message.bytes.copy(grown, 0, 0, message.size);
    message.bytes = grown;
  }
  message.bytes.set(data, message.size);
  message.size = size;
}

function refused(problem: string): ProtocolError {
  return new ProtocolError('REMOTE_PROTOCOL_ERROR', problem, { details: { kind: 'pieces' } });
}
