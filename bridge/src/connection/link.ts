/**
 * The connection's end of one process: what that process writes, until the link is cut.
 *
 * After a broken message nothing more is read, for there is no resynchronisation; after `cut`
 * nothing is delivered, whatever still comes. What has arrived is counted, so that a watchdog needs
 * no clock for each read.
 */

import type { IsthmusError } from '../errors.js';
import { asIsthmusError, Inbox, type InboxReceiver } from './inbox.js';

export class Link {
  /** Reads so far. */
  receipts = 0;
  readonly #inbox: Inbox;
  readonly #onBroken: (error: IsthmusError) => void;
  #isOpen = true;

  constructor(receiver: InboxReceiver, onBroken: (error: IsthmusError) => void) {
    this.#inbox = new Inbox(receiver);
    this.#onBroken = onBroken;
  }

  /** Take what was read from the process. */
  push(chunk: Buffer): void {
    this.receipts++;
    if (!this.#isOpen) return;
    try {
      this.#inbox.push(chunk);
    } catch (error) {
      this.#break(error);
    }
  }

  /** The input ended; the owner is told when that was inside a frame. */
  end(): void {
    if (!this.#isOpen) return;
    try {
      this.#inbox.end();
    } catch (error) {
      this.#break(error);
    }
  }

  /** Deliver nothing more. */
  cut(): void {
    this.#isOpen = false;
  }

  #break(error: unknown): void {
    this.#isOpen = false;
    this.#onBroken(asIsthmusError(error));
  }
}
