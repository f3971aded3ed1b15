/**
 * Frames: a 4-byte big-endian length and that many bytes of payload.
 *
 *      0        4                      4+n
 *      ┌────────┬───────────────────────┐
 *      │ n      │ payload, n bytes      │
 *      └────────┴───────────────────────┘
 *
 * Bytes in, frames out: no socket, no clock, and no idea of what a payload means. A length of 0 or
 * over the limit is refused from the header alone, and nothing is read after a refusal: there is no
 * resynchronisation. The work is linear in the bytes received, however they are cut.
 */

import { ProtocolError } from '../errors.js';
import { PARTIAL_FRAME_BYTES } from '../limits.js';

export const HEADER_BYTES = 4;

/** Takes the payload at `start` to `end` of `buffer`, which is only lent for the call. */
export type FrameHandler = (buffer: Buffer, start: number, end: number) => void;

const SHOWN_BYTES = 32;

export class FrameDecoder {
  readonly #limit: number;
  readonly #onFrame: FrameHandler;
  #partial: Buffer = Buffer.alloc(0);
  /** Bytes of an unfinished frame, header included; 0 between frames. */
  #held = 0;
  #refused = false;

  constructor(limitBytes: number, onFrame: FrameHandler) {
    this.#limit = limitBytes;
    this.#onFrame = onFrame;
  }

  /** Take what was read; every frame that is complete is handed on before this returns. */
  push(chunk: Buffer): void {
    if (this.#refused) return;
    let position = this.#held === 0 ? 0 : this.#finishPartial(chunk);
    while (chunk.length - position >= HEADER_BYTES) {
      const end = position + HEADER_BYTES + this.#frameLength(chunk, position);
      if (end > chunk.length) break;
      this.#onFrame(chunk, position + HEADER_BYTES, end);
      position = end;
    }
    if (position < chunk.length) this.#hold(chunk, position, chunk.length);
  }

  /** Tell the decoder that nothing follows. Throws when the input ended inside a frame. */
  end(): void {
    if (this.#held === 0 || this.#refused) return;
    this.#refused = true;
    throw new ProtocolError(
      'REMOTE_PROTOCOL_ERROR',
      `the input ended inside a frame, after ${this.#held} of its bytes`,
      { details: { kind: 'truncated' } },
    );
  }

  /** Complete the frame that is held, as far as `chunk` goes; return the bytes used of it. */
  #finishPartial(chunk: Buffer): number {
    let used = 0;
    if (this.#held < HEADER_BYTES) {
      used = Math.min(HEADER_BYTES - this.#held, chunk.length);
      this.#hold(chunk, 0, used);
      if (this.#held < HEADER_BYTES) return used;
    }
    const whole = HEADER_BYTES + this.#frameLength(this.#partial, 0);
    const taken = Math.min(whole - this.#held, chunk.length - used);
    this.#hold(chunk, used, used + taken, whole);
    if (this.#held === whole) this.#releasePartial(whole);
    return used + taken;
  }

  #releasePartial(whole: number): void {
    const frame = this.#partial;
    this.#held = 0;
    if (frame.length > PARTIAL_FRAME_BYTES) this.#partial = Buffer.alloc(0);
    this.#onFrame(frame, HEADER_BYTES, whole);
  }

  /** Append to the partial frame. Capacity doubles with what has arrived, never with a promise. */
  #hold(chunk: Buffer, start: number, end: number, whole = Number.POSITIVE_INFINITY): void {
    const needed = this.#held + end - start;
    if (needed > this.#partial.length) {
      const doubled = Math.max(PARTIAL_FRAME_BYTES, 2 * needed);
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, Math.min(doubled, whole)));
      this.#partial.copy(grown, 0, 0, this.#held);
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#held, start, end);
    this.#held = needed;
  }

  #frameLength(buffer: Buffer, position: number): number {
    const length = buffer.readUInt32BE(position);
    if (length > 0 && length <= this.#limit) return length;
    this.#refused = true;
    const shown = buffer.subarray(position, position + SHOWN_BYTES).toString('hex');
    if (length === 0) {
      throw new ProtocolError('REMOTE_PROTOCOL_ERROR', 'a frame is empty', {
        details: { kind: 'empty', bytes: shown },
      });
    }
    throw new ProtocolError(
      'FRAME_TOO_LARGE',
      `a frame of ${length} bytes is over the limit of ${this.#limit}; if the output is text, ` +
        `something else wrote to the runtime's standard output (first bytes: ${shown})`,
      { details: { length, limit: this.#limit, bytes: shown } },
    );
  }
}
