/**
 * One runtime process, from its spawn to its end: hello, loss, bounded shutdown.
 *
 *      starting ──hello──► running ──stop, loss──► leaving ──► ended
 *          └── exit, timeout, broken protocol ────────▲
 *
 * Its owner is told of the hello, once that it can no longer be talked to, and once that it has
 * ended. Knows nothing of requests, and not whether another process follows.
 */

import type { Connection } from '../connection/connection.js';
import type { Link } from '../connection/link.js';
import type { ExitReport, IsthmusError } from '../errors.js';
import { type Ending, startFailed, startTimedOut } from './end-report.js';
import { PatientTimer } from './patient-timer.js';
import { Child, type ChildOptions, type Command, type StopTimes } from './spawn.js';
import type { Finding } from './watchdog.js';

export interface ProcessOptions extends ChildOptions {
  readonly command: Command;
  readonly startTimeoutMs: number;
  readonly shutdown: StopTimes;
  readonly onStderr?: ((text: string) => void) | undefined;
}

export interface ProcessOwner {
  /** It can no longer be talked to, though it may still run. */
  onLost(): void;
  /** It has ended, or never began. */
  onEnded(ending: Ending): void;
}

export class RuntimeProcess {
  readonly link: Link;
  readonly #options: ProcessOptions;
  readonly #owner: ProcessOwner;
  readonly #clock: () => number;
  readonly #child: Child;
  readonly #startTimer = new PatientTimer();
  #state: 'starting' | 'running' | 'leaving' | 'ended' = 'starting';
  #helloAt: number | undefined;
  #endedAt: number | undefined;
  #problem: IsthmusError | undefined;
  #finding: Finding | undefined;
  #startError: IsthmusError | undefined;
  #stopped: Promise<ExitReport> | undefined;

  /** Spawn it and attach it to the connection. Throws a StartError when there is nothing to wait
   * for. While it is not `isAwaited` it does not keep the host alive. */
  constructor(
    options: ProcessOptions,
    connection: Connection,
    clock: () => number,
    owner: ProcessOwner,
    isAwaited: boolean,
  ) {
    this.#options = options;
    this.#owner = owner;
    this.#clock = clock;
    const { onStderr } = options;
    try {
      this.#child = new Child(options.command, options, {
        onOutput: (chunk) => this.link.push(chunk),
        onStderr: onStderr && ((text) => callUser(() => onStderr(text))),
        onLost: () => this.#lose(),
        onExit: (report, spawnError) => this.#ended(report, spawnError),
      });
    } catch (error) {
      throw startFailed(options.command, undefined, error);
    }
    this.link = connection.attach(this.#child.input);
    this.#startTimer.set(() => this.#startTimedOut(), options.startTimeoutMs, isAwaited);
    this.#child.release();
    this.#child.setReferenced(isAwaited);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** It was killed in vain, and is still not known to have ended. */
  get isLeft(): boolean {
    return this.#child.isLeft;
  }

  get stderrTail(): string {
    return this.#child.stderrTail;
  }

  /** What is known of its end by now. */
  get ending(): Ending {
    return {
      ...this.#child.report(),
      problem: this.#problem,
      finding: this.#finding,
      startError: this.#startError,
      isForced: this.#child.isForced,
      healthyForMs: this.#healthyForMs,
    };
  }

  get #healthyForMs(): number {
    if (this.#helloAt === undefined) return 0;
    return Math.max((this.#endedAt ?? this.#clock()) - this.#helloAt, 0);
  }

  /** It said hello. */
  greeted(): void {
    this.#startTimer.clear();
    this.#helloAt = this.#clock();
    if (this.#state === 'starting') this.#state = 'running';
  }

  /** It broke the protocol: nothing that follows can be trusted. */
  broke(problem: IsthmusError): void {
    this.#problem ??= problem;
    if (this.#state === 'starting') this.#startError = problem;
    if (this.#state !== 'ended') this.#lose();
  }

  /** Whether it keeps the host alive; the pipe of its output does. */
  setReferenced(isReferenced: boolean): void {
    this.#child.setReferenced(isReferenced);
    this.#startTimer.setReferenced(isReferenced);
  }

  /** Have it finish and go; bounded and idempotent. Closing its input is the owner's business. */
  stop(): Promise<ExitReport> {
    return this.#leave(this.#options.shutdown);
  }

  /** Have it go without waiting for it to finish anything; bounded and idempotent. */
  dismiss(): Promise<ExitReport> {
    return this.#leave({ ...this.#options.shutdown, graceMs: 0 });
  }

  /** End it by force, for a reason. */
  condemn(finding: Finding): void {
    if (this.#state === 'ended' || this.#finding !== undefined) return;
    this.#finding = finding;
    this.#state = 'leaving';
    this.#stopped = this.#child.force(this.#options.shutdown.killMs);
  }

  #leave(times: StopTimes): Promise<ExitReport> {
    if (this.#state === 'ended') return this.#child.exited;
    this.#state = 'leaving';
    this.#stopped ??= this.#child.stop(times);
    return this.#stopped;
  }

  #startTimedOut(): void {
    this.#startError ??= startTimedOut(this.#options.startTimeoutMs, this.stderrTail);
    void this.dismiss();
  }

  /** The process runs, but can no longer be talked to. */
  #lose(): void {
    if (this.#state === 'starting') this.#startError ??= this.#startFailed(undefined);
    this.#owner.onLost();
    void this.dismiss();
  }

  #ended(report: ExitReport, spawnError: Error | undefined): void {
    this.#startTimer.clear();
    this.#endedAt = this.#clock();
    this.#state = 'ended';
    this.link.end();
    if (this.#helloAt === undefined) {
      this.#startError ??= this.#problem ?? this.#startFailed(spawnError, report);
    }
    this.#owner.onEnded(this.ending);
  }

  #startFailed(cause: unknown, report: ExitReport = this.#child.report()): IsthmusError {
    return startFailed(this.#options.command, report, cause);
  }
}

/** Run the caller's code; what it throws is the caller's and must not end a read half-way. */
export function callUser(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    process.nextTick(() => {
      throw error;
    });
  }
}
