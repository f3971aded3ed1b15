/**
 * The life of the runtime process and of the connection to it: start, hello, end, bounded shutdown.
 *
 *      starting ──hello──► running ──stop()──► stopping ──► ended
 *          └── exit, timeout, broken protocol, lost pipe ──────▲
 *
 * Each pending request is settled when the process ends, whatever ended it. One process a
 * supervisor: whoever restarts makes a new one. Knows nothing of models.
 */

import { Connection } from '../connection/connection.js';
import type { ConnectionOptions } from '../connection/events.js';
import { type ExitReport, IsthmusError, RuntimeExitedError, StartError } from '../errors.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { Child, type Command, type StopTimes } from './spawn.js';

export interface SupervisorOptions extends ConnectionOptions {
  readonly command: Command;
  readonly cwd?: string | undefined;
  readonly env: Record<string, string>;
  readonly startTimeoutMs: number;
  readonly shutdown: StopTimes;
  readonly onStderr?: ((text: string) => void) | undefined;
  readonly onEvent?: ((name: string, payload: Value) => void) | undefined;
}

type State = 'starting' | 'running' | 'stopping' | 'ended';

export class Supervisor {
  readonly connection: Connection;
  readonly closed: Promise<ExitReport>;
  hello: WireMap = {};
  readonly #options: SupervisorOptions;
  readonly #child: Child;
  #state: State = 'starting';
  /** What was wrong with the protocol, when that is why the process had to end. */
  #problem: IsthmusError | undefined;
  #stopped: Promise<ExitReport> | undefined;
  #onStart: (error?: IsthmusError) => void = () => undefined;

  private constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#child = new Child(options.command, options, {
      onOutput: (chunk) => this.connection.push(chunk),
      onStderr: options.onStderr && ((text) => callUser(() => options.onStderr?.(text))),
      onLost: (report) => this.#lose(report),
      onExit: (report, spawnError) => this.#ended(report, spawnError),
    });
    this.closed = this.#child.exited;
    this.connection = new Connection(
      this.#child.input,
      {
        onHello: (hello) => this.#started(hello),
        onBroken: (error) => this.#broken(error),
        onEvent: (name, payload) => this.#event(name, payload),
        onBusy: (isBusy) => this.#child.setReferenced(isBusy),
      },
      options,
    );
  }

  /** Start the command and wait for its hello. Rejects with a StartError or a ProtocolError, and
   * leaves no process behind when it does. */
  static async start(options: SupervisorOptions): Promise<Supervisor> {
    let supervisor: Supervisor;
    try {
      supervisor = new Supervisor(options);
    } catch (error) {
      throw startFailed(options.command, undefined, error);
    }
    await supervisor.#waitForHello();
    return supervisor;
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get stderrTail(): string {
    return this.#child.stderrTail;
  }

  async #waitForHello(): Promise<void> {
    const { startTimeoutMs } = this.#options;
    const outcome = await new Promise<IsthmusError | undefined>((resolve) => {
      const timer = setTimeout(() => resolve(this.#startTimedOut()), startTimeoutMs);
      this.#onStart = (error) => {
        clearTimeout(timer);
        resolve(error);
      };
    });
    if (outcome === undefined) return;
    await this.#kill(outcome);
    throw outcome;
  }

  #startTimedOut(): IsthmusError {
    const { startTimeoutMs } = this.#options;
    const tail = this.stderrTail;
    return new StartError(
      'START_TIMEOUT',
      `the runtime said no hello within ${startTimeoutMs} ms${quoted(tail)}; ${HINT}`,
      tail,
    );
  }

  #started(hello: WireMap): void {
    this.hello = hello;
    this.#state = 'running';
    this.#child.release();
    this.#child.setReferenced(false);
    this.#onStart();
  }

  #event(name: string, payload: Value): void {
    if (name === 'closing' && this.#state === 'running') void this.stop();
    callUser(() => this.#options.onEvent?.(name, payload));
  }

  /** The protocol was broken: nothing that follows can be trusted. */
  #broken(problem: IsthmusError): void {
    this.#problem ??= problem;
    if (this.#state === 'starting') return this.#onStart(problem);
    if (this.#state === 'ended') return;
    this.#lose(this.#child.report());
  }

  /** The process runs, but can no longer be talked to. */
  #lose(report: ExitReport): void {
    if (this.#state === 'starting') return this.#onStart(this.#startError(report, undefined));
    this.connection.fail((isSent) => this.#exitError(report, isSent));
    void this.#kill(this.#exitError(report, true));
  }

  #ended(report: ExitReport, spawnError: Error | undefined): void {
    const wasStarting = this.#state === 'starting';
    this.#state = 'ended';
    this.connection.end();
    this.connection.fail((isSent) => this.#exitError(report, isSent));
    if (wasStarting) this.#onStart(this.#problem ?? this.#startError(report, spawnError));
  }

  #startError(report: ExitReport, spawnError: Error | undefined): StartError {
    return startFailed(this.#options.command, report, spawnError);
  }

  #exitError(report: ExitReport, isSent: boolean): RuntimeExitedError {
    const problem = this.#problem;
    const why = problem === undefined ? describeEnd(report) : `broke off: ${problem.message}`;
    const details = { sent: isSent, ...(problem === undefined ? {} : problem.details) };
    const message = `the runtime ${why}${quoted(report.stderrTail)}`;
    return new RuntimeExitedError(message, report, { details, cause: problem });
  }

  /** Take no more requests, let those made settle, and end the process; bounded and idempotent. */
  stop(): Promise<ExitReport> {
    if (this.#state === 'ended') return this.closed;
    this.#state = 'stopping';
    this.connection.refuse(() => new IsthmusError('CLOSING', 'the runtime is closing'));
    this.connection.endOutput();
    this.#stopped ??= this.#child.stop(this.#options.shutdown);
    return this.#stopped;
  }

  /** End the process without waiting for it to finish anything. */
  #kill(reason: IsthmusError): Promise<ExitReport> {
    if (this.#state === 'ended') return this.closed;
    this.#state = 'stopping';
    this.connection.refuse(() => reason);
    this.#stopped ??= this.#child.stop({ ...this.#options.shutdown, graceMs: 0 });
    return this.#stopped;
  }
}

const HINT = '`npx isthmus-doctor` shows what is missing';
const QUOTED_LINES = 8;

function startFailed(command: Command, report: ExitReport | undefined, cause: unknown): StartError {
  const tail = report?.stderrTail ?? '';
  const why =
    cause instanceof Error
      ? `could not be started (${command[0]}): ${cause.message}`
      : `${describeEnd(report)} before its hello`;
  const details = { exitCode: report?.exitCode ?? null, signal: report?.signal ?? null };
  const message = `the runtime ${why}${quoted(tail)}; ${HINT}`;
  return new StartError('START_FAILED', message, tail, { details, cause });
}

function describeEnd(report: ExitReport | undefined): string {
  if (report?.signal) return `was ended by ${report.signal}`;
  if (typeof report?.exitCode === 'number') return `exited with code ${report.exitCode}`;
  return 'closed its pipes';
}

function quoted(tail: string): string {
  const lines = tail.trimEnd().split('\n').slice(-QUOTED_LINES);
  return lines.join('') === '' ? '' : `\n  ${lines.join('\n  ')}\n`;
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
