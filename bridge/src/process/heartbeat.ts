/**
 * The watchdog's timer: looks at the runtime as long as something is asked of it.
 *
 * It never keeps the host alive, and an idle runtime is not pinged: the timer stops at the first
 * tick that finds nothing pending, so that a loop of calls does not switch it on and off.
 */

import type { Connection } from '../connection/connection.js';
import type { Link } from '../connection/link.js';
import { type Finding, type HeartbeatOptions, Watchdog } from './watchdog.js';

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #connection: Connection;
  readonly #clock: () => number;
  readonly #onFinding: (finding: Finding) => void;
  readonly #watchdog: Watchdog;
  #link: Link | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    options: HeartbeatOptions,
    connection: Connection,
    clock: () => number,
    onFinding: (finding: Finding) => void,
  ) {
    this.#options = options;
    this.#connection = connection;
    this.#clock = clock;
    this.#onFinding = onFinding;
    this.#watchdog = new Watchdog(options);
  }

  /** Watch a process, which has said hello, by its link. */
  watch(link: Link): void {
    this.#link = link;
    this.#watchdog.reset();
    if (this.#connection.isBusy) this.wake();
  }

  /** Watch nothing. */
  stop(): void {
    this.#link = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Something is pending. */
  wake(): void {
    if (this.#timer !== undefined || this.#link === undefined) return;
    this.#watchdog.begin(this.#clock(), this.#link.receipts);
    this.#timer = setInterval(this.#tick, this.#options.intervalMs).unref();
  }

  /** How long the process has sent nothing; null while nothing is asked of it. */
  get silentMs(): number | null {
    if (this.#timer === undefined || this.#link === undefined) return null;
    return this.#watchdog.silentMs(this.#clock(), this.#link.receipts);
  }

  readonly #tick = (): void => {
    const link = this.#link;
    if (link === undefined || !this.#connection.isBusy) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      return;
    }
    const action = this.#watchdog.tick(this.#clock(), link.receipts);
    if (action === 'ping') this.#connection.probe((health) => this.#pong(link, health));
    else if (action !== 'wait') this.#onFinding(action);
  };

  #pong(link: Link, health: Parameters<Watchdog['pong']>[0]): void {
    const finding = link === this.#link ? this.#watchdog.pong(health) : undefined;
    if (finding !== undefined) this.#onFinding(finding);
  }
}
