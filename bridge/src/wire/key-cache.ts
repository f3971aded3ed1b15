/**
 * Map keys repeat from message to message: this remembers short ASCII ones by their bytes, so that
 * a known key costs a comparison instead of a new string.
 *
 * Bounded: each key has one slot, and a newer one takes it over. Knows nothing of msgpack.
 */

const SLOTS = 256;
const LONGEST_KEY = 32;

export class KeyCache {
  readonly #slots: (string | undefined)[] = new Array<string | undefined>(SLOTS).fill(undefined);

  /** Return the key whose bytes are at `start` of `buffer`, when it is known. */
  find(buffer: Buffer, start: number, length: number): string | undefined {
    if (length === 0 || length > LONGEST_KEY) return undefined;
    const first = buffer[start] as number;
    const last = buffer[start + length - 1] as number;
    const key = this.#slots[slot(first, last, length)];
    if (key === undefined || key.length !== length) return undefined;
    for (let at = 0; at < length; at++) {
      if (key.charCodeAt(at) !== buffer[start + at]) return undefined;
    }
    return key;
  }

  /** Remember a key that has been checked. One with a character over U+007F is never found again:
   * its bytes are not its character codes. */
  keep(key: string): void {
    const { length } = key;
    if (length === 0 || length > LONGEST_KEY) return;
    for (let at = 0; at < length; at++) if (key.charCodeAt(at) >= 0x80) return;
    this.#slots[slot(key.charCodeAt(0), key.charCodeAt(length - 1), length)] = key;
  }
}

function slot(first: number, last: number, length: number): number {
  return (first * 7 + last * 31 + length * 3) & (SLOTS - 1);
}
