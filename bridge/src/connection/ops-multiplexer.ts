/**
 * Many small calls become few frames, and the caller does not notice.
 *
 * Calls of one turn of the event loop with the same key (operation, model, options, deadline) leave
 * as one batch; a lone call leaves as itself. When they leave is the window's decision. Each call
 * keeps its own result, error, signal and deadline.
 */

import type { IsthmusError } from '../errors.js';
import { ALONE_BYTES } from '../limits.js';
import { type BatchOperation, Member } from './batch.js';
import { aborted } from './events.js';
import { type Carrier, Lane, type LaneKey } from './lane.js';
import { type LaneStats, StatsBook } from './lane-stats.js';
import { type AbortHandler, type CallOptions, Phase, type Request } from './request.js';

/** Idle lanes are kept up to this many: they know how long their batches take. */
const LANES_KEPT = 64;

export class OpsMultiplexer implements AbortHandler {
  readonly #carrier: Carrier;
  readonly #clock: () => number;
  readonly #lanes = new Map<string, Lane>();
  readonly #book = new StatsBook();
  /** Lanes to look at when the turn ends. */
  #due: Lane[] = [];

  /** `clock` gives milliseconds that never go back. */
  constructor(carrier: Carrier, clock: () => number) {
    this.#carrier = carrier;
    this.#clock = clock;
  }

  /** Counters of each operation, model and options. */
  get stats(): Record<string, LaneStats> {
    return this.#book.toObject();
  }

  /** Make a call that may share its frame with others of the same key. */
  call<Item, T>(
    operation: BatchOperation<Item, T>,
    item: Item,
    key: LaneKey,
    options: CallOptions,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#carrier.checkOpen();
      const { signal } = options;
      if (signal?.aborted) throw aborted(signal);
      const size = operation.size(item);
      const member = new Member(item, size, operation.convert, resolve, reject) as Member<unknown>;
      const lane = this.#lanes.get(key.id) ?? this.#open(operation as never, key);
      if (size > ALONE_BYTES) return lane.sendLarge(member, options);
      member.lane = lane;
      if (signal !== undefined) member.watch(signal, this);
      lane.add(member);
    });
  }

  /** The turn of the event loop ends: let go what leaves with it. */
  readonly endTurn = (): void => {
    while (this.#due.length > 0) {
      const due = this.#due;
      this.#due = [];
      for (const lane of due) lane.endTurn();
    }
  };

  /** Send all that collects: what comes next must not overtake it. */
  flush(): void {
    for (const lane of this.#lanes.values()) lane.flush('close');
  }

  /** Reject all that collects. */
  fail(reason: () => IsthmusError): void {
    for (const lane of this.#lanes.values()) lane.fail(reason);
  }

  /** A member's signal fired. */
  abort(request: Request): void {
    const member = request as Member<unknown>;
    if (member.phase === Phase.SETTLED) return;
    const error = aborted(member.signal);
    const { carrier } = member;
    if (carrier === 'itself') return this.#carrier.abandon(member, error);
    member.settle();
    if (carrier === 'none') member.lane?.leave(member);
    else if (carrier.leave()) this.#carrier.abandon(carrier, error);
    member.fail(error);
  }

  #open(operation: BatchOperation<unknown, unknown>, key: LaneKey): Lane {
    if (this.#lanes.size >= LANES_KEPT) this.#forgetIdle();
    const stats = this.#book.of(operation.method, key.model, key.options);
    const lane = new Lane(operation, key, this.#carrier, this.#clock, stats, this.#wake);
    this.#lanes.set(key.id, lane);
    return lane;
  }

  #forgetIdle(): void {
    for (const [id, lane] of this.#lanes) if (lane.isIdle) this.#lanes.delete(id);
  }

  readonly #wake = (lane: Lane): void => {
    this.#due.push(lane);
    this.#carrier.wakeAtTurnEnd();
  };
}
