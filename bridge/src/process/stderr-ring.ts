/** The last bytes of a standard error that is never allowed to fill its pipe. */

import { STDERR_TAIL_BYTES } from '../limits.js';

export class StderrRing {
  #chunks: Buffer[] = [];
  #size = 0;
  readonly #limit: number;

  constructor(limitBytes = STDERR_TAIL_BYTES) {
    this.#limit = limitBytes;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    for (let first = this.#chunks[0]; first; first = this.#chunks[0]) {
      if (this.#size - first.length < this.#limit) break;
      this.#chunks.shift();
      this.#size -= first.length;
    }
  }

  /** The tail as text; a character that was cut at its beginning is dropped. */
  toString(): string {
    const tail = Buffer.concat(this.#chunks, this.#size).subarray(-this.#limit);
    let start = 0;
    while (start < 3 && ((tail[start] ?? 0) & 0xc0) === 0x80) start++;
    return tail.toString('utf8', start);
  }
}
