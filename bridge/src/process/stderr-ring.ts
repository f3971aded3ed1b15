/** The last bytes of a standard error that is never allowed to fill its pipe, in a fixed memory. */

import { STDERR_TAIL_BYTES } from '../limits.js';

export class StderrRing {
  readonly #bytes: Buffer;
  /** Where the next byte goes. */
  #end = 0;
  #isFull = false;

  constructor(limitBytes = STDERR_TAIL_BYTES) {
    this.#bytes = Buffer.allocUnsafeSlow(limitBytes);
  }

  /** Copy what was read; `chunk` is the caller's again afterwards. */
  push(chunk: Buffer): void {
    const limit = this.#bytes.length;
    const kept = chunk.subarray(-limit);
    const first = kept.copy(this.#bytes, this.#end);
    kept.copy(this.#bytes, 0, first);
    const end = this.#end + kept.length;
    this.#isFull ||= end >= limit;
    this.#end = end % limit;
  }

  /** The tail as text; a character that was cut at its beginning is dropped. */
  toString(): string {
    const newest = this.#bytes.subarray(0, this.#end);
    const oldest = this.#isFull ? this.#bytes.subarray(this.#end) : newest.subarray(0, 0);
    const tail = Buffer.concat([oldest, newest]);
    let start = 0;
    while (this.#isFull && start < 3 && ((tail[start] ?? 0) & 0xc0) === 0x80) start++;
    return tail.toString('utf8', start);
  }
}
