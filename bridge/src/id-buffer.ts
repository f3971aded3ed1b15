/** Token ids that arrive little by little, gathered in one growing array. */

const FIRST_CAPACITY = 64;

export class IdBuffer {
  length = 0;
  #ids = new Uint32Array(FIRST_CAPACITY);

  append(ids: Uint32Array): void {
    const needed = this.length + ids.length;
    if (needed > this.#ids.length) {
      const grown = new Uint32Array(Math.max(needed, 2 * this.#ids.length));
      grown.set(this.#ids);
      this.#ids = grown;
    }
    if (ids.length === 1) this.#ids[this.length] = ids[0] as number;
    else this.#ids.set(ids, this.length);
    this.length = needed;
  }

  /** A copy of what was gathered. */
  toArray(): Uint32Array {
    return this.#ids.slice(0, this.length);
  }
}
