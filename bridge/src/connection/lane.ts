/**
 * The calls of one key: they collect, leave as one request, and are told apart again.
 *
 * The window decides when; the lane does it. Knows the connection only as a carrier of requests.
 */

import { DeadlineError, type IsthmusError } from '../errors.js';
import { Batch, type BatchOperation, type Member, type OnSettled, singleParams } from './batch.js';
import { asIsthmusError } from './inbox.js';
import type { LaneStats } from './lane-stats.js';
import { type CallOptions, Phase, type Request } from './request.js';
import { type Flush, Window } from './window.js';

export type Params = Readonly<Record<string, unknown>>;

/** What lanes ask of their connection. */
export interface Carrier {
  /** Send a request; throws, and sends nothing, when it cannot be sent at all. */
  send(request: Request, method: string, params: Params, options: CallOptions): void;
  /** Settle a request with an error, and have it stopped in the runtime. */
  abandon(request: Request, error: IsthmusError): void;
  /** Throw when no request is taken any more. */
  checkOpen(): void;
  /** Write what waits, before the turn ends. */
  writeNow(): void;
  /** Have the multiplexer told when this turn of the event loop ends. */
  wakeAtTurnEnd(): void;
  /** Calls collect, or no longer do: the process stays alive for them. */
  hold(isHolding: boolean): void;
}

/** What the calls of a lane have in common. */
export interface LaneKey {
  /** The same for the same lane, and for no other. */
  readonly id: string;
  readonly model: string;
  /** Options as they travel. */
  readonly options: Params;
  readonly deadlineMs: number | undefined;
}

/** Timers count whole milliseconds: one that is set too short wakes for nothing. */
const TIMER_FLOOR_MS = 1;

export class Lane {
  readonly #operation: BatchOperation<unknown, unknown>;
  readonly #key: LaneKey;
  readonly #carrier: Carrier;
  readonly #clock: () => number;
  readonly #stats: LaneStats;
  readonly #wake: (lane: Lane) => void;
  readonly #window: Window;
  #members: Member<unknown>[] = [];
  #isDue = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    operation: BatchOperation<unknown, unknown>,
    key: LaneKey,
    carrier: Carrier,
    clock: () => number,
    stats: LaneStats,
    wake: (lane: Lane) => void,
  ) {
    this.#operation = operation;
    this.#key = key;
    this.#carrier = carrier;
    this.#clock = clock;
    this.#stats = stats;
    this.#wake = wake;
    this.#window = new Window(clock);
  }

  /** Whether nothing would be lost if it were forgotten. */
  get isIdle(): boolean {
    return this.#window.isIdle && !this.#isDue;
  }

  /** Take a call. */
  add(member: Member<unknown>): void {
    const before = this.#window.before(member.size);
    if (before !== undefined) this.flush(before);
    if (this.#window.calls === 0) this.#carrier.hold(true);
    if (this.#key.deadlineMs !== undefined) member.joinedAt = this.#clock();
    this.#members.push(member);
    const full = this.#window.join(member.size);
    if (full === undefined) return this.#wakeOnce();
    this.flush(full);
    this.#carrier.writeNow();
  }

  /** Send a call that would keep its neighbours waiting alone, past the window. */
  sendLarge(member: Member<unknown>, options: CallOptions): void {
    this.#stats.add(1, 'bytes', 0);
    member.carrier = 'itself';
    this.#carrier.send(member, this.#operation.method, this.#single(member), options);
  }

  /** A member that collects has settled: its caller gave up. */
  leave(member: Member<unknown>): void {
    this.#window.leave(member.size);
    if (this.#window.calls > 0) return;
    this.#take();
    this.#carrier.hold(false);
  }

  /** The turn of the event loop ends. */
  endTurn(): void {
    this.#isDue = false;
    const reason = this.#window.endTurn();
    if (reason !== undefined) this.flush(reason);
    else if (this.#window.calls > 0) this.#arm();
  }

  /** Send what collects, if anything does. */
  flush(reason: Flush): void {
    if (this.#window.calls === 0) return;
    const members = this.#take();
    const { heldMs } = this.#window;
    this.#stats.add(members.length, reason, heldMs);
    this.#window.sent();
    this.#send(members, heldMs, this.#settler());
    this.#carrier.hold(false);
  }

  /** Reject what collects. */
  fail(reason: () => IsthmusError): void {
    if (this.#window.calls === 0) return;
    const members = this.#take();
    for (const { size } of members) this.#window.leave(size);
    this.#carrier.hold(false);
    failAll(members, reason);
  }

  #send(members: Member<unknown>[], heldMs: number, settled: OnSettled): void {
    const deadlineMs = heldMs > 0 ? this.#inTime(members) : this.#key.deadlineMs;
    const [first] = members;
    if (first === undefined) settled(false);
    else if (members.length > 1) this.#sendTogether(members, deadlineMs, settled);
    else this.#sendAlone(first, deadlineMs, settled);
  }

  /** Fail and remove the members whose deadline passed here; return what the youngest has left. */
  #inTime(members: Member<unknown>[]): number | undefined {
    const { deadlineMs } = this.#key;
    if (deadlineMs === undefined || !(deadlineMs > 0)) return deadlineMs;
    const now = this.#clock();
    const firstInTime = members.findIndex(({ joinedAt }) => now - joinedAt < deadlineMs);
    const late = members.splice(0, firstInTime < 0 ? members.length : firstInTime);
    failAll(late, passed);
    return deadlineMs - (now - (members.at(-1)?.joinedAt ?? now));
  }

  #sendAlone(member: Member<unknown>, deadlineMs: number | undefined, settled: OnSettled): void {
    member.carrier = 'itself';
    member.onSettled = settled;
    const params = this.#single(member);
    try {
      this.#carrier.send(member, this.#operation.method, params, { deadlineMs });
    } catch (error) {
      member.settle();
      member.fail(asIsthmusError(error));
    }
  }

  #sendTogether(
    members: Member<unknown>[],
    deadlineMs: number | undefined,
    settled: OnSettled,
  ): void {
    const { method, items } = this.#operation;
    const list = members.map((member) => member.item);
    const params = { [items]: list, model: this.#key.model, ...this.#key.options };
    const batch = new Batch(this.#operation, members, settled);
    try {
      this.#carrier.send(batch, `batch_${method}`, params, { deadlineMs });
    } catch {
      // An item cannot be encoded, or nothing can be sent: each call finds out for itself.
      settled(false);
      for (const member of members) {
        this.#window.sent();
        this.#sendAlone(member, deadlineMs, this.#settler());
      }
    }
  }

  /** What to call when the request that leaves now has settled. */
  #settler(): OnSettled {
    const sentAt = this.#clock();
    return (isAnswered) => {
      this.#window.settled(isAnswered ? this.#clock() - sentAt : undefined);
      if (this.#window.calls > 0) this.#wakeOnce();
    };
  }

  #single(member: Member<unknown>): Params {
    const { model, options } = this.#key;
    return singleParams(this.#operation, member.item, model, options);
  }

  /** Nothing collects any more; return what did. */
  #take(): Member<unknown>[] {
    const members = this.#members.filter((member) => member.phase !== Phase.SETTLED);
    this.#members = [];
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return members;
  }

  #wakeOnce(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    this.#wake(this);
  }

  #arm(): void {
    if (this.#timer !== undefined) return;
    const delay = Math.max(Math.ceil(this.#window.dueAt - this.#clock()), TIMER_FLOOR_MS);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (!this.#isDue) this.endTurn();
    }, delay).unref();
  }
}

function failAll(members: readonly Member<unknown>[], reason: () => IsthmusError): void {
  for (const member of members) {
    member.settle();
    member.fail(reason());
  }
}

function passed(): IsthmusError {
  const message = 'the deadline passed before the call was sent';
  return new DeadlineError('DEADLINE_EXCEEDED', message, { phase: 'queue' });
}
