/**
 * Incoming messages that travel in pieces, put together again within limits (section 5).
 *
 * Takes pieces and gives back whole payloads; does not know what they say.
 */

import { ProtocolError } from '../errors.js';
import { PieceFlag } from './messages.js';

interface OpenMessage {
  readonly parts: Uint8Array[];
  size: number;
}

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
    message.parts.push(data);
    message.size += data.length;
    if (message.size > this.#limitBytes) {
      throw refused(`a message in pieces is over the limit of ${this.#limitBytes} bytes`);
    }
    if (flag === PieceFlag.MORE) return undefined;
    this.#open.delete(channel);
    return Buffer.concat(message.parts, message.size);
  }

  #begin(channel: number): OpenMessage {
    if (this.#open.size >= this.#openLimit) {
      throw refused(`more than ${this.#openLimit} messages are in pieces at once`);
    }
    const message = { parts: [], size: 0 };
    this.#open.set(channel, message);
    return message;
  }
}

function refused(problem: string): ProtocolError {
  return new ProtocolError('REMOTE_PROTOCOL_ERROR', problem, { details: { kind: 'pieces' } });
}
