/**
 * From the bytes of the runtime to messages: frames, pieces and the decoder in one line.
 *
 * A payload that cannot be decoded fails the request it belongs to when it shows one, and breaks the
 * connection otherwise. Knows no sockets and no requests.
 */

import { IsthmusError, makeError } from '../errors.js';
import { FRAME_LIMIT_BYTES, MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT } from '../limits.js';
import { Decoder } from '../wire/decoder.js';
import { FrameDecoder } from '../wire/frames.js';
import {
  Kind,
  type MessageReceiver,
  malformed,
  peekRequestId,
  readMessage,
} from '../wire/messages.js';
import { PieceAssembler } from '../wire/pieces.js';

/** Takes whole messages; pieces never reach it. */
export interface InboxReceiver extends Omit<MessageReceiver, 'onPiece'> {
  /** A message for request `id` could not be read; `isFinal` when nothing follows it. */
  onUnreadable(id: number, isFinal: boolean, error: IsthmusError): void;
}

export class Inbox {
  readonly #receiver: InboxReceiver;
  readonly #frames: FrameDecoder;
  readonly #decoder = new Decoder();
  readonly #pieces = new PieceAssembler(MESSAGE_LIMIT_BYTES, OPEN_PIECES_LIMIT);
  readonly #outer: MessageReceiver;
  readonly #inner: MessageReceiver;

  constructor(receiver: InboxReceiver) {
    this.#receiver = receiver;
    this.#frames = new FrameDecoder(FRAME_LIMIT_BYTES, (buffer, start, end) =>
      this.#read(buffer, start, end, this.#outer),
    );
    this.#outer = this.#makeReceiver((channel, flag, data) => {
      const payload = this.#pieces.add(channel, flag, data);
      if (payload !== undefined) this.#read(payload, 0, payload.length, this.#inner);
    });
    this.#inner = this.#makeReceiver(() => {
      throw malformed('a piece inside a piece');
    });
  }

  /** Take what was read; throws the error that breaks the connection. */
  push(chunk: Buffer): void {
    this.#frames.push(chunk);
  }

  /** The input ended; throws when that was inside a frame. */
  end(): void {
    this.#frames.end();
  }

  #read(buffer: Buffer, start: number, end: number, receiver: MessageReceiver): void {
    this.#decoder.reset(buffer, start, end, receiver === this.#inner);
    try {
      readMessage(this.#decoder, receiver);
    } catch (error) {
      const id = isUndecodable(error) ? peekRequestId(buffer, start, end) : undefined;
      if (id === undefined) throw error;
      this.#receiver.onUnreadable(id, buffer[start + 1] !== Kind.DELTA, error as IsthmusError);
    }
  }

  #makeReceiver(onPiece: MessageReceiver['onPiece']): MessageReceiver {
    const receiver = this.#receiver;
    return {
      onHello: (hello) => receiver.onHello(hello),
      onResult: (id, value) => receiver.onResult(id, value),
      onError: (id, error) => receiver.onError(id, error),
      onDelta: (id, count, payload) => receiver.onDelta(id, count, payload),
      onEvent: (name, payload) => receiver.onEvent(name, payload),
      onPong: (nonce, health) => receiver.onPong(nonce, health),
      onPiece,
    };
  }
}

function isUndecodable(error: unknown): boolean {
  return (
    error instanceof IsthmusError &&
    (error.code === 'DECODE_ERROR' || error.code === 'DEPTH_EXCEEDED')
  );
}

/** Turn whatever was thrown into an error of the tree. */
export function asIsthmusError(error: unknown): IsthmusError {
  if (error instanceof IsthmusError) return error;
  return makeError('INTERNAL', `unexpected: ${String(error)}`, { cause: error });
}
