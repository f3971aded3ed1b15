/** One timer that keeps the host alive only while somebody waits for what comes after it. */

export class PatientTimer {
  #timer: NodeJS.Timeout | undefined;

  /** Whether it runs. */
  get isSet(): boolean {
    return this.#timer !== undefined;
  }

  /** Call `callback` once, after `delayMs`; what was set before is forgotten. */
  set(callback: () => void, delayMs: number, isReferenced: boolean): void {
    this.clear();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      callback();
    }, delayMs);
    this.setReferenced(isReferenced);
  }

  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  setReferenced(isReferenced: boolean): void {
    if (isReferenced) this.#timer?.ref();
    else this.#timer?.unref();
  }
}
