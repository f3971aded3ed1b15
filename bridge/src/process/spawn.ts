/**
 * One child process with three pipes: its output, its end, and a bounded way to stop it.
 *
 * Never a shell. The end is taken from `exit`, not from `close`, which a grandchild that holds the
 * pipes can put off for ever: what they still hold is read for a bounded time, then they are
 * destroyed. Knows nothing of frames.
 */

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import type { ExitReport } from '../errors.js';
import { EXIT_DRAIN_MS, IDLE_MS, OUTPUT_READ_BYTES, STDERR_READ_BYTES } from '../limits.js';
import { readOutput } from './output.js';
import { StderrRing } from './stderr-ring.js';

/** A program and its arguments. */
export type Command = readonly [string, ...string[]];

export interface ChildOptions {
  readonly cwd?: string | undefined;
  readonly env: Record<string, string>;
}

export interface ChildEvents {
  /** Gets what was read; the chunk is only lent for the call. */
  readonly onOutput: (chunk: Buffer) => void;
  /** Gets standard error as text, when someone wants it. */
  readonly onStderr?: ((text: string) => void) | undefined;
  /** One of the pipes ended while the process goes on: it can no longer be talked to. */
  onLost(report: ExitReport): void;
  /** The process has ended and its pipes have been read. Called once, also when it never began. */
  onExit(report: ExitReport, spawnError: Error | undefined): void;
}

/** How long each step of stopping may take, in milliseconds. */
export interface StopTimes {
  readonly graceMs: number;
  readonly termMs: number;
  readonly killMs: number;
}

export class Child {
  readonly exited: Promise<ExitReport>;
  /** SIGKILL was sent from here. */
  isForced = false;
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #events: ChildEvents;
  readonly #stderr = new StderrRing();
  #output: Socket | undefined;
  #errors: Socket | undefined;
  #exitCode: number | null = null;
  #signal: NodeJS.Signals | null = null;
  #hasExited = false;
  #openPipes = 2;
  #isFinished = false;
  #isStopping = false;
  #isNeeded = true;
  #isReferenced = true;
  #idleTimer: NodeJS.Timeout | undefined;
  #timer: NodeJS.Timeout | undefined;
  #resolveExited: (report: ExitReport) => void = () => undefined;

  /** Start it. Throws only what `spawn` itself throws, such as for a NUL byte in an argument. */
  constructor(command: Command, options: ChildOptions, events: ChildEvents) {
    const [program, ...args] = command;
    this.#events = events;
    this.exited = new Promise((resolve) => {
      this.#resolveExited = resolve;
    });
    this.#process = spawn(program, args, {
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      env: options.env,
      stdio: ['pipe', 'pipe', 'pipe'],
      shell: false,
      windowsHide: true,
    });
    this.#listen();
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Where to write for the child to read. */
  get input(): Writable {
    return this.#process.stdin;
  }

  /** Nobody waits for its end any more, and it has not come. */
  get isLeft(): boolean {
    return this.#isFinished && !this.#hasExited && this.pid !== undefined;
  }

  get stderrTail(): string {
    return this.#stderr.toString();
  }

  /** What is known of the end by now. */
  report(): ExitReport {
    return { exitCode: this.#exitCode, signal: this.#signal, stderrTail: this.stderrTail };
  }

  #listen(): void {
    this.#process.on('error', (error) => this.#spawnFailed(error));
    this.#process.on('exit', (code, signal) => this.#onExit(code, signal));
    if (!hasPipes(this.#process)) {
      this.#isFinished = true;
      throw new Error('the host is out of file descriptors or processes');
    }
    const { stdin } = this.#process;
    const stdout = readOutput(this.#process.stdout, OUTPUT_READ_BYTES, this.#events.onOutput);
    const stderr = readOutput(this.#process.stderr, STDERR_READ_BYTES, this.#stderrReader());
    this.#output = stdout;
    this.#errors = stderr;
    stdout.on('close', () => this.#pipeClosed(true));
    stderr.on('close', () => this.#pipeClosed(false));
    stdin.on('error', () => this.#lose());
    stdout.on('error', () => undefined);
    stderr.on('error', () => undefined);
  }

  #stderrReader(): (chunk: Buffer) => void {
    const { onStderr } = this.#events;
    const decoder = new StringDecoder('utf8');
    return (chunk) => {
      this.#stderr.push(chunk);
      if (onStderr !== undefined) onStderr(decoder.write(chunk));
    };
  }

  /** `error` also reports a signal that could not be sent; only without a pid has nothing begun. */
  #spawnFailed(error: Error): void {
    if (this.#process.pid === undefined) this.#finish(error);
  }

  #onExit(code: number | null, signal: NodeJS.Signals | null): void {
    this.#hasExited = true;
    this.#exitCode = code;
    this.#signal = signal;
    clearTimeout(this.#timer);
    if (this.#openPipes === 0) this.#finish(undefined);
    else this.#timer = setTimeout(() => this.#finish(undefined), EXIT_DRAIN_MS);
  }

  #pipeClosed(isOutput: boolean): void {
    this.#openPipes--;
    if (this.#hasExited && this.#openPipes === 0) this.#finish(undefined);
    else if (isOutput) this.#lose();
  }

  /** A pipe ended. The exit, which says why, usually follows at once. */
  #lose(): void {
    if (this.#hasExited || this.#isFinished || this.#timer !== undefined) return;
    this.#process.ref();
    this.#timer = setTimeout(() => {
      if (!this.#isStopping) this.#events.onLost(this.report());
    }, EXIT_DRAIN_MS);
  }

  #finish(spawnError: Error | undefined): void {
    if (this.#isFinished) return;
    this.#isFinished = true;
    clearTimeout(this.#timer);
    const report = this.report();
    this.#events.onExit(report, spawnError);
    this.#destroyPipes();
    this.#resolveExited(report);
  }

  #destroyPipes(): void {
    const { stdin, stdout, stderr } = this.#process;
    for (const pipe of [stdin, this.#output, stdout, this.#errors, stderr]) pipe?.destroy();
    this.#process.unref();
  }

  /** Whether the child keeps Node alive. Only its output is switched, and only when it has not been
   * needed for a while: between two calls of a loop nothing is done. */
  setReferenced(isReferenced: boolean): void {
    this.#isNeeded = isReferenced;
    if (isReferenced && !this.#isReferenced) this.#reference(true);
    else if (!isReferenced) this.#idleTimer ??= setTimeout(this.#onIdle, IDLE_MS).unref();
  }

  readonly #onIdle = (): void => {
    this.#idleTimer = undefined;
    if (!this.#isNeeded) this.#reference(false);
  };

  #reference(isReferenced: boolean): void {
    this.#isReferenced = isReferenced;
    if (isReferenced) this.#output?.ref();
    else this.#output?.unref();
  }

  /** Let Node end while the child runs, but for what `setReferenced` says. */
  release(): void {
    this.#process.unref();
    (this.#process.stdin as unknown as Socket).unref();
    this.#errors?.unref();
  }

  /** Wait for the end, then ask for it with SIGTERM, then force it; every wait is bounded. Closing
   * the input is the caller's business. */
  async stop(times: StopTimes): Promise<ExitReport> {
    this.#isStopping = true;
    this.#process.ref();
    if (await this.#ends(times.graceMs)) return this.exited;
    this.#process.kill('SIGTERM');
    if (await this.#ends(times.termMs)) return this.exited;
    return this.force(times.killMs);
  }

  /** End it at once: it does not listen. */
  async force(killMs: number): Promise<ExitReport> {
    this.#isStopping = true;
    this.isForced = true;
    this.#process.ref();
    this.#process.kill('SIGKILL');
    if (!(await this.#ends(killMs))) this.#finish(undefined);
    return this.exited;
  }

  /** Whether the process ends within `ms`. */
  #ends(ms: number): Promise<boolean> {
    if (this.#isFinished) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      void this.exited.then(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }
}

/** When the host is out of file descriptors, `spawn` returns a process without pipes. */
function hasPipes(child: { readonly stdin: unknown }): boolean {
  return child.stdin !== undefined && child.stdin !== null;
}
