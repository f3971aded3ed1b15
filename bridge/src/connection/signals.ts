/**
 * Callers' signals: one listener for each signal, however many requests it stops.
 *
 * Node warns of a leak from the eleventh listener on, and a listener costs three microseconds.
 */

/** Who is stopped by a signal. */
export interface Stoppable {
  onAbort(): void;
}

class Watchers {
  readonly stopped = new Set<Stoppable>();
  readonly #signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  add(one: Stoppable): void {
    if (this.stopped.size === 0) this.#signal.addEventListener('abort', this);
    this.stopped.add(one);
  }

  remove(one: Stoppable): void {
    if (this.stopped.delete(one) && this.stopped.size === 0) {
      this.#signal.removeEventListener('abort', this);
    }
  }

  handleEvent(): void {
    for (const one of [...this.stopped]) one.onAbort();
  }
}

const watched = new WeakMap<AbortSignal, Watchers>();

/** Tell `one` when the signal fires. */
export function watchSignal(signal: AbortSignal, one: Stoppable): void {
  let watchers = watched.get(signal);
  if (watchers === undefined) {
    watchers = new Watchers(signal);
    watched.set(signal, watchers);
  }
  watchers.add(one);
}

/** No longer tell it. */
export function unwatchSignal(signal: AbortSignal, one: Stoppable): void {
  watched.get(signal)?.remove(one);
}
