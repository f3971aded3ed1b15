import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Flush, Window, type WindowLimits } from '../../../bridge/src/connection/window.js';
import { vectors } from '../support.js';

interface Case {
  readonly name: string;
  readonly limits?: { calls?: number; size_bytes?: number };
  readonly steps: [name: string, ...values: never[]][];
}

const limitsOf = ({ limits }: Case): WindowLimits => ({
  calls: limits?.calls ?? 256,
  sizeBytes: limits?.size_bytes ?? 1024 * 1024,
  holdLimitMs: 4,
  holdFloorMs: 1,
});

for (const shared of vectors<Case>('window')) {
  test(shared.name, () => {
    let now = 1_000;
    const window = new Window(() => now, limitsOf(shared));
    const steps: Record<string, (value: never, expected: never) => void> = {
      advance: (ms: number) => {
        now += ms;
      },
      sent: () => window.sent(),
      leave: (size: number) => window.leave(size),
      settled: (tookMs: number | null) => window.settled(tookMs ?? undefined),
      join: (size: number, reason) => expect(window.join(size) ?? null).toBe(reason),
      before: (size: number, reason) => expect(window.before(size) ?? null).toBe(reason),
      end_turn: (reason) => expect(window.endTurn() ?? null).toBe(reason),
      idle: (isIdle) => expect(window.isIdle).toBe(isIdle),
      due_in: (ms: number) => expect(window.dueAt - now).toBeCloseTo(ms),
      held: (ms: number) => expect(window.heldMs).toBeCloseTo(ms),
    };
    for (const [name, ...values] of shared.steps) {
      (steps[name] as (...values: never[]) => void)(...values);
    }
  });
}

/** The rules, kept as lists of calls. */
class Model {
  now = 0;
  collecting: { size: number; made: number }[] = [];
  inFlight: number[] = [];
  readonly window = new Window(() => this.now, {
    calls: 4,
    sizeBytes: 20,
    holdLimitMs: 4,
    holdFloorMs: 1,
  });

  call(size: number): void {
    const before = this.window.before(size);
    expect(before !== undefined).toBe(this.collecting.length > 0 && this.bytes + size > 20);
    if (before !== undefined) this.send(before);
    this.collecting.push({ size, made: this.now });
    const full = this.window.join(size);
    if (full !== undefined) this.send(full);
  }

  giveUp(index: number): void {
    const [call] = this.collecting.splice(index, 1);
    if (call !== undefined) this.window.leave(call.size);
  }

  advance(ms: number): void {
    this.now += ms;
    this.turn();
  }

  answer(isAnswered: boolean): void {
    const sentAt = this.inFlight.shift();
    if (sentAt === undefined) return;
    this.window.settled(isAnswered ? this.now - sentAt : undefined);
    this.turn();
  }

  turn(): void {
    const reason = this.window.endTurn();
    if (reason !== undefined) this.send(reason);
    if (this.collecting.length > 0) {
      expect(this.inFlight, 'a call is held although nothing is in flight').not.toEqual([]);
      expect(this.now).toBeLessThan(this.window.dueAt);
    }
  }

  get bytes(): number {
    return this.collecting.reduce((sum, { size }) => sum + size, 0);
  }

  private send(reason: Flush): void {
    expect(this.collecting.length).toBeGreaterThan(0);
    expect(this.collecting.length).toBeLessThanOrEqual(4);
    if (this.collecting.length > 1) expect(this.bytes).toBeLessThanOrEqual(20);
    if (reason === 'turn' || reason === 'reply') expect(this.inFlight).toEqual([]);
    if (reason === 'time') expect(this.inFlight).not.toEqual([]);
    this.collecting = [];
    this.inFlight.push(this.now);
    this.window.sent();
  }
}

test('the window keeps its rules whatever happens', () => {
  const step = fc.oneof(
    fc.integer({ min: 0, max: 12 }).map((size) => (model: Model) => model.call(size)),
    fc.integer({ min: 0, max: 5 }).map((index) => (model: Model) => model.giveUp(index)),
    fc.double({ min: 0, max: 3, noNaN: true }).map((ms) => (model: Model) => model.advance(ms)),
    fc.boolean().map((isAnswered) => (model: Model) => model.answer(isAnswered)),
    fc.constant((model: Model) => model.turn()),
  );
  const property = fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
    const model = new Model();
    for (const take of steps) {
      take(model);
      expect(model.window.calls).toBe(model.collecting.length);
      expect(model.window.sizeBytes).toBe(model.bytes);
      expect(model.window.inFlight).toBe(model.inFlight.length);
    }
  });
  fc.assert(property, { numRuns: 500 });
});
