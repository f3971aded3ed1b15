/**
 * The runtime's life over all of its processes: start, restart by policy, give up, close.
 *
 * At most one process at any time: the next begins when the last has ended. When one ends, the
 * requests that cannot be kept settle at once; the others wait in the connection for the next. The
 * states are those of `life.ts`, whether to restart is `restart-policy.ts`, whether a process still
 * listens `watchdog.ts`. Without pending work nothing here keeps the host alive.
 */

import { Connection } from '../connection/connection.js';
import type { KeptCounters } from '../connection/replay.js';
import { copyError, type ExitReport, IsthmusError } from '../errors.js';
import { ENGINE_DEAD_ANSWERS_MS } from '../limits.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { isMap } from '../wire/messages.js';
import {
  type Ending,
  exitError,
  failedError,
  leftError,
  NO_EXIT,
  type PastEnd,
  unborn,
  whatHappened,
} from './end-report.js';
import { Heartbeat } from './heartbeat.js';
import { Life, type LifeState } from './life.js';
import { PatientTimer } from './patient-timer.js';
import { RestartPolicy } from './restart-policy.js';
import { callUser, RuntimeProcess } from './runtime-process.js';
import {
  askHealth,
  type StateChange,
  type SupervisedHealth,
  type SupervisorOptions,
} from './supervision.js';
import { engineDead, type Finding } from './watchdog.js';

/** Somebody who waits until the runtime runs again. */
interface Waiter {
  resolve(): void;
  reject(error: IsthmusError): void;
}

export class Supervisor {
  readonly connection: Connection;
  /** Resolves when the runtime has ended for good. */
  readonly closed: Promise<ExitReport>;
  /** Processes that were begun after the first. */
  restarts = 0;
  /** What the newest process said of itself that said anything. */
  hello: WireMap = {};
  /** How the last process ended. */
  lastExit: Ending | undefined;
  readonly #options: SupervisorOptions;
  readonly #clock: () => number;
  readonly #life = new Life();
  readonly #policy: RestartPolicy | undefined;
  readonly #heartbeat: Heartbeat | undefined;
  /** Until the next start, or until an engine's last answers are here. */
  readonly #timer = new PatientTimer();
  #process: RuntimeProcess | undefined;
  #isProcessGone = true;
  /** The present process was told to go, so that its end is no fault. */
  #isAsked = false;
  /** Someone asked for a restart: it does not wait for the policy. */
  #isByHand = false;
  /** What the policy said of the end of the last process that ran: how long to wait, or to give up. */
  #verdict: { readonly delayMs: number | undefined } | undefined;
  /** Starts since it last ran. */
  #attempt = 0;
  #ends: PastEnd[] = [];
  #reason: string | null = null;
  #waiters: Waiter[] = [];
  #resolveClosed: (report: ExitReport) => void = () => undefined;

  private constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => performance.now());
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    const { restart, heartbeat, random = Math.random } = options;
    this.#policy = restart === false ? undefined : new RestartPolicy(restart, random);
    this.connection = new Connection(
      {
        onHello: (hello) => this.#greeted(hello),
        onBroken: (error) => this.#process?.broke(error),
        onEvent: (name, payload) => this.#event(name, payload),
        onBusy: (isBusy) => this.#busy(isBusy),
      },
      options,
    );
    this.#heartbeat =
      heartbeat === false
        ? undefined
        : new Heartbeat(heartbeat, this.connection, this.#clock, (finding) => this.#find(finding));
  }

  /** Start the command and wait for its hello. Rejects with a StartError or a ProtocolError, without
   * trying again, and leaves no process behind when it does. */
  static async start(options: SupervisorOptions): Promise<Supervisor> {
    const supervisor = new Supervisor(options);
    const running = supervisor.#whenRunning();
    supervisor.#begin();
    await running;
    return supervisor;
  }

  get state(): LifeState {
    return this.#life.state;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get stderrTail(): string {
    return this.#process?.stderrTail ?? '';
  }

  get counters(): KeptCounters & { state: LifeState; restarts: number } {
    return { state: this.state, restarts: this.restarts, ...this.connection.kept };
  }

  /** Answers in every state, and within a second. */
  async health(): Promise<SupervisedHealth> {
    const runtime = this.state === 'running' ? await askHealth(this.connection) : null;
    const isDead = isMap(runtime?.engine) && runtime.engine.state === 'dead';
    const isReady = this.state === 'running' && runtime !== null && !isDead;
    const silence = 'the runtime has not answered';
    const running = isReady ? null : isDead ? 'its engine is dead' : silence;
    const { exitCode, signal, stderrTail } = this.lastExit ?? NO_EXIT;
    return {
      state: this.state,
      isReady,
      reason: this.state === 'running' ? running : this.#reason,
      restarts: this.restarts,
      lastExit: this.lastExit === undefined ? null : { exitCode, signal, stderrTail },
      silentMs: this.#heartbeat?.silentMs ?? null,
      runtime,
    };
  }

  /** Begin the runtime anew: from `running` the process gets time for what is in flight, from
   * `failed` the history is forgotten. Resolves when it runs again. Rejects when that fails, or when
   * it is closed meanwhile. */
  restart(): Promise<void> {
    const { state } = this;
    if (state === 'closing' || state === 'closed') return Promise.reject(closing());
    const running = this.#whenRunning();
    this.#policy?.clear();
    this.#isByHand = true;
    if (state === 'running') {
      this.#to('restarting', { reason: 'it was asked to' });
      this.#dismiss();
    } else if (state === 'failed') {
      this.#ends = [];
      this.connection.accept();
      this.#to('restarting', { reason: 'it was asked to' });
      this.#begin();
    } else if (this.#timer.isSet && this.#isProcessGone) {
      this.#timer.clear();
      this.#begin();
    } else {
      this.#busy(true);
    }
    return running;
  }

  /** Take no more requests, let those made settle, and end the process; bounded and idempotent. */
  stop(): Promise<ExitReport> {
    const { state } = this;
    if (state === 'closing' || state === 'closed') return this.closed;
    this.connection.refuse(closing);
    this.#timer.clear();
    this.#to('closing', { reason: 'it was closed' });
    this.connection.rejectKept(closing);
    this.#settleWaiters(closing());
    if (this.#isProcessGone) this.#close();
    else if (state === 'running') this.#endInput();
    else if (!this.#isAsked) void this.#process?.dismiss();
    return this.closed;
  }

  /** Whether the host must stay alive until there is a runtime. */
  get #isAwaited(): boolean {
    return this.#waiters.length > 0 || this.connection.isBusy;
  }

  #whenRunning(): Promise<void> {
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  #settleWaiters(error?: IsthmusError): void {
    for (const waiter of this.#waiters.splice(0)) {
      if (error === undefined) waiter.resolve();
      else waiter.reject(error);
    }
  }

  #to(state: LifeState, extras: Omit<Partial<StateChange>, 'from' | 'to'> = {}): void {
    const from = this.#life.to(state);
    this.#reason = extras.reason ?? null;
    if (state === 'restarting') this.#attempt = 1;
    const attempt = this.#attempt;
    if (state !== 'restarting') this.#attempt = 0;
    const { onState } = this.#options;
    if (onState === undefined) return;
    // Later: whoever listens may close or restart, and this step is not done yet.
    const change = { from, to: state, attempt, ...extras };
    process.nextTick(() => callUser(() => onState(change)));
  }

  /** Spawn a process, unless the last one still runs. */
  #begin(): void {
    this.#isAsked = false;
    this.#isByHand = false;
    if (this.#process?.isLeft) return this.#giveUp(leftError(this.#process.pid));
    if (this.state !== 'starting') this.restarts++;
    try {
      const process: RuntimeProcess = new RuntimeProcess(
        this.#options,
        this.connection,
        this.#clock,
        { onLost: () => this.#lost(process), onEnded: (ending) => this.#ended(ending) },
        this.#isAwaited,
      );
      this.#process = process;
      this.#isProcessGone = false;
    } catch (error) {
      this.#ended(unborn(error as IsthmusError));
    }
  }

  #greeted(hello: WireMap): void {
    const process = this.#process as RuntimeProcess;
    this.hello = hello;
    process.greeted();
    process.setReferenced(this.connection.isBusy);
    this.#isByHand = false;
    if (this.state === 'closing') return;
    this.#to('running');
    this.#heartbeat?.watch(process.link);
    this.#settleWaiters();
  }

  #event(name: string, payload: Value): void {
    if (this.state === 'running') {
      if (name === 'closing') this.#announced();
      else if (name === 'engine_dead' && this.#heartbeat !== undefined) {
        this.#find(engineDead(isMap(payload) ? payload.message : undefined));
      }
    }
    callUser(() => this.#options.onEvent?.(name, payload));
  }

  /** The runtime goes by itself: somebody else told it to. */
  #announced(): void {
    if (this.#policy === undefined) return void this.stop();
    this.#to('restarting', { reason: 'the runtime is closing' });
    this.#dismiss();
  }

  /** Have the process finish what it has and go, while what is asked from now on waits. */
  #dismiss(): void {
    this.connection.shut();
    this.#endInput();
  }

  #endInput(): void {
    this.#isAsked = true;
    this.#heartbeat?.stop();
    this.#timer.clear();
    this.connection.endOutput();
    void this.#process?.stop();
  }

  /** Keep the host alive for what is pending, and for nothing else. */
  #busy(isBusy: boolean): void {
    if (this.state === 'running') {
      this.#process?.setReferenced(isBusy);
      if (isBusy) this.#heartbeat?.wake();
    } else if (this.state === 'restarting') {
      this.#process?.setReferenced(this.#isAwaited);
      this.#timer.setReferenced(this.#isAwaited);
    }
  }

  /** The process does not listen, or is of no use. A dead engine's answers get time to arrive. */
  #find(finding: Finding): void {
    const process = this.#process;
    if (this.state !== 'running' || process === undefined) return;
    this.#heartbeat?.stop();
    this.connection.shut();
    if (finding.cause !== 'engine_dead') return process.condemn(finding);
    const isReferenced = this.connection.isBusy;
    this.#timer.set(() => process.condemn(finding), ENGINE_DEAD_ANSWERS_MS, isReferenced);
  }

  /** The process can no longer be talked to, though it may still run. */
  #lost(process: RuntimeProcess): void {
    this.#settleRequests(process.ending);
  }

  /** Settle what cannot be kept, at once, and go to the state that follows. */
  #settleRequests(ending: Ending): void {
    const { connection } = this;
    this.#heartbeat?.stop();
    const { state } = this;
    const isRunning = state === 'running';
    const hasNext = state === 'restarting' || (isRunning && this.#policy !== undefined);
    const hasCrashed = !this.#isAsked;
    const makeError = (isSent: boolean, isDelivered: boolean): IsthmusError =>
      exitError(ending, isSent, isDelivered);
    if (isRunning && !hasNext) connection.refuse(() => makeError(false, false));
    if (isRunning) {
      const told = {
        reason: `the runtime ${whatHappened(ending)}`,
        error: makeError(false, false),
      };
      const delayMs = this.#policy?.next(this.#clock(), ending.healthyForMs);
      this.#verdict = { delayMs };
      const extras = delayMs === undefined ? told : { ...told, delayMs };
      this.#to(hasNext ? 'restarting' : 'closing', extras);
    }
    connection.detach({ hasNext, hasCrashed, makeError });
    if (!hasNext) connection.rejectKept(isRunning ? () => makeError(false, false) : closing);
  }

  #ended(ending: Ending): void {
    this.#isProcessGone = true;
    this.#timer.clear();
    this.#settleRequests(ending);
    this.lastExit = ending;
    const what = whatHappened(ending);
    const { exitCode, signal } = ending;
    this.#ends = [...this.#ends, { atMs: this.#clock(), exitCode, signal, what }];
    const { restart } = this.#options;
    this.#ends = this.#ends.slice(restart === false ? -1 : -1 - restart.limit);
    if (this.state === 'starting') this.#giveUp(ending.startError as IsthmusError);
    else if (this.state === 'closing') this.#close();
    else this.#beginAgain(ending);
  }

  #beginAgain(ending: Ending): void {
    const verdict = this.#verdict;
    this.#verdict = undefined;
    if (this.#isByHand) return this.#begin();
    if (verdict === undefined && ending.startError !== undefined) this.#attempt++;
    const { delayMs } = verdict ?? {
      delayMs: this.#policy?.next(this.#clock(), ending.healthyForMs),
    };
    if (delayMs === undefined) return this.#giveUp(failedError(this.#ends, ending));
    this.#timer.set(() => this.#begin(), delayMs, this.#isAwaited);
  }

  #giveUp(error: IsthmusError): void {
    this.connection.refuse(() => copyError(error));
    this.#to('failed', { reason: error.message, error });
    this.connection.rejectKept(() => copyError(error));
    this.#settleWaiters(error);
  }

  #close(): void {
    this.#to('closed');
    const { exitCode, signal, stderrTail } = this.lastExit ?? NO_EXIT;
    this.#resolveClosed({ exitCode, signal, stderrTail });
  }
}

function closing(): IsthmusError {
  return new IsthmusError('CLOSING', 'the runtime is closing');
}
