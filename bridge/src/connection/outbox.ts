/**
 * What waits to be written to the runtime, and in which order.
 *
 * All messages of one turn of the event loop leave in one write. A message over the piece limit is
 * sent piece by piece, the next one only when the pipe has taken the last, so that small messages
 * overtake it. Everything that waits is counted. It outlives the pipe: without one nothing is
 * written, and what was taken out goes on being held and counted. Knows requests only as owners of
 * messages, and nothing of replies.
 */

import { Writable } from 'node:stream';
import { IsthmusError } from '../errors.js';
import { ID_LIMIT, OUTGOING_BUFFER_KEPT_BYTES, SENDING_PIECES_LIMIT } from '../limits.js';
import type { Encoder } from '../wire/encoder.js';
import { tooLarge } from '../wire/encoder.js';
import { HEADER_BYTES } from '../wire/frames.js';
import { PieceFlag, writePiece } from '../wire/messages.js';

/** A message on its way in pieces. */
interface LargeMessage {
  readonly owner: object | null;
  readonly payload: Buffer;
  readonly channel: number;
  sent: number;
}

export interface OutboxLimits {
  readonly messageBytes: number;
  readonly pieceBytes: number;
  readonly queuedBytes: number;
}

/** Who waits until some large messages have left, and which of them have not. */
interface Waiter {
  readonly messages: Set<LargeMessage>;
  readonly resolve: () => void;
}

const NOTHING = Buffer.alloc(0);

/** Stands for the pipe while there is none; never written to. */
const NO_PIPE = new Writable();

export class Outbox {
  readonly encoder: Encoder;
  limits: OutboxLimits;
  /** Writes so far: what joined since the last one has not been written. */
  writes = 0;
  #pipe: Writable = NO_PIPE;
  #large: LargeMessage[] = [];
  #waiters: Waiter[] = [];
  #nextChannel = 0;
  /** Bytes of large messages and of requests held outside. */
  #heldBytes = 0;
  /** The pipe holds a write that it could not pass on: the next one waits. */
  #isFull = false;
  /** The buffer of that write, and one to take its place. */
  #lent: Buffer | undefined;
  #spare: Buffer | undefined;
  readonly #onTurnEnd: () => void;
  #isScheduled = false;
  #isEnding = false;
  /** Nothing is written: there is no pipe, or no more is to be written to it. */
  #isClosed = true;
  #drained: () => void = () => undefined;

  /** `onTurnEnd` may add messages to those that a turn of the event loop is about to send. */
  constructor(encoder: Encoder, limits: OutboxLimits, onTurnEnd: () => void = () => undefined) {
    this.#onTurnEnd = onTurnEnd;
    this.encoder = encoder;
    this.limits = limits;
  }

  /** From now on write to `pipe`. */
  attach(pipe: Writable): void {
    this.#pipe = pipe;
    this.#isClosed = false;
    this.#drained = () => {
      if (this.#pipe === pipe) this.#onDrain();
    };
    pipe.on('drain', this.#drained);
  }

  /** The pipe is of no use any more: forget what it was to get, but for what was taken out. */
  detach(): void {
    this.#pipe.off('drain', this.#drained);
    this.#pipe = NO_PIPE;
    this.#isClosed = true;
    this.#isEnding = false;
    this.#isFull = false;
    this.#lent = undefined;
    this.#spare = undefined;
    for (const message of this.#large.splice(0)) this.#left(message);
    this.encoder.renew();
    // Whoever waited for a full pipe has a turn to end, and no `drain` tells them.
    this.#schedule();
  }

  /** Owners of messages of which a part has not been written: nobody can have read those. */
  get partlyWritten(): ReadonlySet<object | null> {
    return new Set(this.#large.map((message) => message.owner));
  }

  /** Bytes that wait, in any form. */
  get queuedBytes(): number {
    return this.encoder.position + this.#heldBytes + this.#pipe.writableLength;
  }

  /** Begin a message in the encoder; `finish` or `rewind` must follow in the same turn. */
  begin(): number {
    if (this.queuedBytes > this.limits.queuedBytes) {
      throw new IsthmusError(
        'QUEUE_FULL',
        `${this.queuedBytes} bytes wait for the runtime to read; await earlier calls first`,
        { phase: 'queue' },
      );
    }
    return this.encoder.begin(HEADER_BYTES);
  }

  /** Queue a message that no request owns; it is short, and never refused. */
  control(write: (encoder: Encoder) => void): void {
    const start = this.encoder.begin(HEADER_BYTES);
    write(this.encoder);
    this.finish(start, null);
  }

  /** Queue the message that was written since `start`. */
  finish(start: number, owner: object | null): void {
    const { encoder } = this;
    const size = encoder.position - start - HEADER_BYTES;
    if (size > this.limits.pieceBytes) return this.send(this.takeOut(start), owner);
    encoder.buffer.writeUInt32BE(size, start);
    this.#schedule();
  }

  /** Take the message written since `start` out of the encoder, still counted, to `send` it later. */
  takeOut(start: number): Buffer {
    const { encoder } = this;
    const size = encoder.position - start - HEADER_BYTES;
    if (size > this.limits.messageBytes) throw tooLarge(size, this.limits.messageBytes);
    const payload = encoder.buffer.subarray(start + HEADER_BYTES, encoder.position);
    this.#heldBytes += size;
    if (start === 0 && 2 * size > encoder.buffer.length) {
      // Little else is in the buffer: take it whole instead of copying it.
      encoder.renew();
      return payload;
    }
    const copy = Buffer.from(payload);
    encoder.rewind(start);
    return copy;
  }

  /** Send a payload that was taken out. */
  send(payload: Buffer, owner: object | null): void {
    if (payload.length > this.limits.pieceBytes) {
      this.#large.push({ owner, payload, channel: this.#nextChannel, sent: 0 });
      this.#nextChannel = (this.#nextChannel + 1) % ID_LIMIT;
    } else {
      this.drop(payload);
      const { encoder } = this;
      const start = encoder.begin(HEADER_BYTES);
      encoder.reserve(payload.length);
      encoder.buffer.set(payload, encoder.position);
      encoder.position += payload.length;
      encoder.buffer.writeUInt32BE(payload.length, start);
    }
    this.#schedule();
  }

  /** Stop counting a payload that was taken out and will not be sent. */
  drop(payload: Buffer): void {
    this.#heldBytes -= payload.length;
  }

  /** Take back the owner's message if a part of it is unsent: the runtime never sees the request. */
  abandon(owner: object): boolean {
    const index = this.#large.findIndex((message) => message.owner === owner);
    const message = this.#large[index];
    if (message === undefined) return false;
    this.#large.splice(index, 1);
    this.#left(message);
    if (message.sent > 0) this.#writePiece(message.channel, PieceFlag.ABANDONED, NOTHING);
    return true;
  }

  /** Call `onTurnEnd` when the turn ends, or once the pipe has room again. */
  wake(): void {
    this.#schedule();
  }

  /** Write what waits now: there is enough of it that the runtime should begin. */
  writeNow(): void {
    if (!this.#isClosed && !this.#isFull && this.encoder.position > 0) this.#write();
  }

  /** Wait until the messages that travel in pieces now have left, or never will. */
  async largeLeft(): Promise<void> {
    if (this.#large.length === 0) return;
    const messages = new Set(this.#large);
    await new Promise<void>((resolve) => this.#waiters.push({ messages, resolve }));
  }

  /** Close the pipe once everything that waits has been written. */
  end(): void {
    this.#isEnding = true;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled || this.#isFull) return;
    this.#isScheduled = true;
    process.nextTick(this.#flush);
  }

  readonly #flush = (): void => {
    if (!this.#isFull) this.#onTurnEnd();
    this.#isScheduled = false;
    if (this.#isClosed || this.#isFull) return;
    if (this.#large.length > 0) this.#addPiece();
    if (this.encoder.position > 0) this.#write();
    if (this.#isFull) return;
    if (this.#large.length > 0) this.#continueLater();
    else if (this.#isEnding) this.#endPipe();
  };

  /** Replies are read between two pieces even when the pipe takes them at once. */
  #continueLater(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(this.#flush);
  }

  #endPipe(): void {
    this.#isClosed = true;
    this.#pipe.end();
  }

  /** Without a callback a write costs Node one tick less: only one that queues behind another asks
   * to be told, and one that fills the pipe's own buffer is followed by `drain`. */
  #write(): void {
    const { encoder } = this;
    const { buffer, position } = encoder;
    const chunk = buffer.subarray(0, position);
    const isQueued = this.#pipe.writableLength > 0;
    this.writes++;
    const hasRoom = isQueued ? this.#pipe.write(chunk, this.#drained) : this.#pipe.write(chunk);
    encoder.position = 0;
    if (this.#pipe.writableLength === 0) {
      if (buffer.length > OUTGOING_BUFFER_KEPT_BYTES) encoder.renew();
      return;
    }
    this.#isFull = isQueued || !hasRoom;
    this.#lent = buffer;
    encoder.renew(this.#spare);
    this.#spare = undefined;
  }

  readonly #onDrain = (): void => {
    if (this.#pipe.writableLength > 0 || this.#isClosed) return;
    if (this.#lent && this.#lent.length <= OUTGOING_BUFFER_KEPT_BYTES) this.#spare = this.#lent;
    this.#lent = undefined;
    this.#isFull = false;
    if (!this.#isScheduled) this.#flush();
  };

  /** Add the next piece of the large message whose turn it is. */
  #addPiece(): void {
    const message = this.#large.shift() as LargeMessage;
    const { payload, channel } = message;
    const end = Math.min(message.sent + this.limits.pieceBytes, payload.length);
    const isLast = end === payload.length;
    const data = payload.subarray(message.sent, end);
    this.#writePiece(channel, isLast ? PieceFlag.LAST : PieceFlag.MORE, data);
    message.sent = end;
    if (isLast) this.#left(message);
    else this.#large.splice(SENDING_PIECES_LIMIT - 1, 0, message);
  }

  /** A large message is no longer here. */
  #left(message: LargeMessage): void {
    this.drop(message.payload);
    for (const { messages, resolve } of this.#waiters) {
      if (messages.delete(message) && messages.size === 0) resolve();
    }
    this.#waiters = this.#waiters.filter(({ messages }) => messages.size > 0);
  }

  #writePiece(channel: number, flag: number, data: Uint8Array): void {
    const { encoder } = this;
    const start = encoder.begin(HEADER_BYTES);
    writePiece(encoder, channel, flag, data);
    encoder.buffer.writeUInt32BE(encoder.position - start - HEADER_BYTES, start);
    this.#schedule();
  }
}
