import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IDEMPOTENT } from '../../../bridge/src/connection/replay.js';
import { TokenStream } from '../../../bridge/src/connection/token-stream.js';
import { FakeRuntime, failure, KILLED, killed, type Message, turn } from '../support.js';

const same = <T>(value: T): T => value;
const call = (runtime: FakeRuntime, method: string, data: unknown, options = {}) =>
  runtime.connection.call(method, { data }, same, options);
const shown = (messages: Message[]) =>
  messages.map(([kind, , method, params]) => [kind, method, params]);

describe('when a process ends, a request', () => {
  test('that was never written goes to the next one, whatever its method', async () => {
    const runtime = new FakeRuntime();
    const calls = [call(runtime, 'load_model', 1), call(runtime, 'no_such_method', 2)];
    runtime.die();
    runtime.revive();
    const sent = await runtime.received();
    expect(shown(sent)).toEqual([
      [1, 'load_model', { data: 1 }],
      [1, 'no_such_method', { data: 2 }],
    ]);
    for (const [, id] of sent) runtime.send([2, id, id]);
    expect(await Promise.all(calls)).toEqual(sent.map(([, id]) => id));
  });

  test('that was written and may be repeated is sent once more, and only once', async () => {
    const runtime = new FakeRuntime();
    const [idempotent, other] = [call(runtime, 'echo', 1), failure(call(runtime, 'load_model', 2))];
    await runtime.received();
    runtime.die();
    expect(await other).toMatchObject({ code: 'RUNTIME_EXITED', details: { sent: true } });
    runtime.revive();
    expect(shown(await runtime.received())).toEqual([[1, 'echo', { data: 1 }]]);
    runtime.die();
    expect(await failure(idempotent)).toMatchObject({ code: 'RUNTIME_EXITED', retryable: true });
    expect(runtime.connection.kept).toMatchObject({ replayed: 1, budgetTokens: 99 });
  });

  test('that had delivered something fails, and may not be retried', async () => {
    const runtime = new FakeRuntime();
    const stream = new TokenStream<unknown>(
      runtime.connection,
      4,
      (payload) => payload as unknown[],
    );
    runtime.connection.send(stream, 'stream_echo', { count: 9 }, {}, 4);
    await runtime.received();
    runtime.send([4, 0, 1, ['x']]);
    const told: unknown[] = [];
    runtime.die({
      ...KILLED,
      makeError: (isSent, isDelivered) => {
        told.push([isSent, isDelivered]);
        return killed(isSent);
      },
    });
    expect((await stream.next()).value).toBe('x');
    await failure(stream.next());
    expect(told).toContainEqual([true, true]);
    runtime.revive();
    expect(await runtime.received()).toEqual([]);
  });

  test('that had delivered nothing begins again, with its credit', async () => {
    const runtime = new FakeRuntime();
    const stream = new TokenStream<unknown>(
      runtime.connection,
      4,
      (payload) => payload as unknown[],
    );
    runtime.connection.send(stream, 'stream_echo', { count: 2 }, {}, 4);
    const first = await runtime.received();
    runtime.die();
    runtime.revive();
    expect(await runtime.received()).toEqual(first);
    runtime.send([4, 0, 2, ['a', 'b']], [5, 0, { count: 2 }]);
    expect([await stream.next(), await stream.next()].map(({ value }) => value)).toEqual([
      'a',
      'b',
    ]);
    expect((await stream.next()).done).toBe(true);
  });

  test('of which pieces are still unwritten counts as never written', async () => {
    const runtime = new FakeRuntime();
    runtime.pipe.isHolding = true;
    const pending = call(runtime, 'load_model', 'x'.repeat(500_000));
    await turn();
    expect(runtime.receivedNow().length).toBeGreaterThan(0);
    runtime.die();
    runtime.revive();
    for (let pieces = 0; pieces < 20; pieces++) await turn();
    runtime.send([2, 0, 'done']);
    expect(await pending).toBe('done');
  });

  test('that was cancelled is not repeated', async () => {
    const runtime = new FakeRuntime();
    const controller = new AbortController();
    const aborted = failure(call(runtime, 'echo', 1, { signal: controller.signal }));
    await runtime.received();
    controller.abort();
    runtime.die();
    runtime.revive();
    expect((await aborted).code).toBe('CANCELLED');
    expect(await runtime.received()).toEqual([]);
    expect(runtime.connection.isBusy).toBe(false);
  });

  test('beyond the retry budget fails', async () => {
    const runtime = new FakeRuntime();
    const calls = Array.from({ length: 60 }, (_, index) => call(runtime, 'echo', index));
    const settled = Promise.allSettled(calls);
    await runtime.received();
    runtime.die();
    runtime.revive();
    const sent = await runtime.received();
    expect(sent.map(([, id]) => id)).toEqual(Array.from({ length: 50 }, (_, index) => index));
    for (const [, id] of sent) runtime.send([2, id, id]);
    const outcomes = (await settled).map(({ status }) => status);
    expect(outcomes.filter((status) => status === 'rejected')).toHaveLength(10);
    expect(runtime.connection.kept).toMatchObject({ replayed: 50, refusedByBudget: 10 });
    expect(runtime.connection.kept.budgetTokens).toBeCloseTo(55);
  });
});

describe('between two processes', () => {
  test('calls wait in their order, and what an old process says goes nowhere', async () => {
    const runtime = new FakeRuntime();
    const old = call(runtime, 'echo', 'old');
    await runtime.received();
    const { link } = runtime;
    runtime.die();
    const calls = [old, ...['a', 'b', 'c'].map((data) => call(runtime, 'echo', data))];
    link.push(Buffer.from('0000000493020078', 'hex'));
    runtime.revive();
    link.push(Buffer.from('ffffffff', 'hex'));
    const sent = await runtime.received();
    expect(sent.map(([, , , params]) => params)).toEqual(
      ['old', 'a', 'b', 'c'].map((data) => ({ data })),
    );
    for (const [, id, , params] of sent) {
      runtime.send([2, id, (params as { data: string }).data]);
    }
    expect(await Promise.all(calls)).toEqual(['old', 'a', 'b', 'c']);
    expect(runtime.broken).toEqual([]);
  });

  test('an impossible request fails at once, alone', async () => {
    const runtime = new FakeRuntime();
    runtime.die();
    const [good, bad] = [call(runtime, 'echo', 'ok'), failure(call(runtime, 'echo', '\ud800'))];
    expect((await bad).code).toBe('INVALID_REQUEST');
    runtime.revive();
    expect(shown(await runtime.received())).toEqual([[1, 'echo', { data: 'ok' }]]);
    runtime.send([2, 0, 'ok']);
    expect(await good).toBe('ok');
  });

  test('small calls still share frames', async () => {
    const runtime = new FakeRuntime();
    runtime.die();
    const key = { id: 'k', model: 'm', options: {}, deadlineMs: undefined };
    const operation = {
      ...{ method: 'count_tokens', items: 'texts', item: 'text' },
      ...{ size: (text: string) => text.length, convert: same },
    };
    const calls = ['a', 'b'].map((text) => runtime.connection.callOne(operation, text, key));
    await turn();
    runtime.revive();
    const [sent] = await runtime.received();
    expect(sent?.slice(2)).toEqual(['batch_count_tokens', { texts: ['a', 'b'], model: 'm' }]);
    runtime.send([2, sent?.[1], { results: [{ count: 1 }, { count: 2 }] }]);
    expect(await Promise.all(calls)).toEqual([{ count: 1 }, { count: 2 }]);
  });

  test('deadlines pass, and what is left of one is sent', async () => {
    let now = 0;
    const runtime = new FakeRuntime({ clock: () => now });
    runtime.die();
    const late = failure(call(runtime, 'echo', 1, { deadlineMs: 100 }));
    const inTime = call(runtime, 'echo', 2, { deadlineMs: 5_000 });
    now = 400;
    runtime.revive();
    expect(await late).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'queue' });
    const [sent] = await runtime.received();
    expect(sent?.[4]).toEqual({ deadline_ms: 4_600 });
    runtime.send([2, sent?.[1], 2]);
    expect(await inTime).toBe(2);
  });

  test('a deadline passes without a process', async () => {
    let now = 0;
    const runtime = new FakeRuntime({ clock: () => now });
    runtime.die();
    const late = failure(call(runtime, 'echo', 1, { deadlineMs: 1 }));
    now = 1_000;
    expect(await late).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'queue' });
    expect(runtime.connection.isBusy).toBe(false);
    expect(runtime.connection.queuedBytes).toBe(0);
  });

  test('signals abort, and a cancelled request is never sent', async () => {
    const runtime = new FakeRuntime();
    runtime.die();
    const controller = new AbortController();
    const aborted = failure(call(runtime, 'echo', 1, { signal: controller.signal }));
    controller.abort();
    expect((await aborted).code).toBe('CANCELLED');
    runtime.revive();
    expect(await runtime.received()).toEqual([]);
  });

  test('what waits is counted, and refused beyond the limit', async () => {
    const runtime = new FakeRuntime({ maxQueuedBytes: 10_000 });
    runtime.die();
    const kept = call(runtime, 'echo', 'x'.repeat(11_000));
    expect(await failure(call(runtime, 'echo', 1))).toMatchObject({ code: 'QUEUE_FULL' });
    expect(runtime.connection.queuedBytes).toBeGreaterThan(11_000);
    runtime.revive();
    runtime.send([2, 0, 'taken']);
    expect(await kept).toBe('taken');
    await turn();
    expect(runtime.connection.queuedBytes).toBe(0);
  });

  test('pings are refused with how the last one ended', async () => {
    const runtime = new FakeRuntime();
    const pending = failure(runtime.connection.ping());
    runtime.die();
    expect(await pending).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL' });
    expect(await failure(runtime.connection.ping())).toMatchObject({ code: 'RUNTIME_EXITED' });
    runtime.revive();
    const ping = runtime.connection.ping();
    runtime.send([10, 1, { in_flight: 0 }]);
    expect(await ping).toEqual({ in_flight: 0 });
  });

  test('closing rejects what waits, and nothing is pending afterwards', async () => {
    const runtime = new FakeRuntime();
    runtime.die();
    const calls = [failure(call(runtime, 'echo', 1)), failure(call(runtime, 'load_model', 2))];
    runtime.connection.refuse(() => killed(false));
    runtime.connection.rejectKept(() => killed(false));
    const errors = await Promise.all(calls);
    expect(new Set(errors).size).toBe(2);
    expect(runtime.busy.at(-1)).toBe(false);
    expect(runtime.connection.queuedBytes).toBe(0);
  });
});

type Step =
  | { readonly make: string }
  | { readonly answer: number }
  | { readonly abort: number }
  | { readonly delta: number }
  | 'turn'
  | 'die'
  | 'revive';

const METHODS = ['echo', 'load_model', 'stream_echo', 'no_such_method'];
const STEP = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...METHODS).map((make): Step => ({ make })) },
  { weight: 3, arbitrary: fc.nat(99).map((answer): Step => ({ answer })) },
  { weight: 1, arbitrary: fc.nat(99).map((abort): Step => ({ abort })) },
  { weight: 1, arbitrary: fc.nat(99).map((delta): Step => ({ delta })) },
  { weight: 3, arbitrary: fc.constant<Step>('turn') },
  { weight: 2, arbitrary: fc.constant<Step>('die') },
  { weight: 3, arbitrary: fc.constant<Step>('revive') },
);

/** One history of calls, answers, ends and starts, and what must hold of it. */
class History {
  readonly runtime: FakeRuntime;
  readonly settled = new Map<number, string[]>();
  readonly writes = new Map<number, number>();
  readonly delivered = new Set<number>();
  readonly methods: string[] = [];
  #controllers: AbortController[] = [];
  /** Requests that this process has read, by id. */
  #read = new Map<number, number>();
  #isAlive = true;

  constructor(inFlight: number) {
    this.runtime = new FakeRuntime({ limits: { in_flight: inFlight } });
  }

  async step(step: Step): Promise<void> {
    if (step === 'turn') await this.read();
    else if (step === 'die') this.die();
    else if (step === 'revive') this.revive();
    else if ('make' in step) this.make(step.make);
    else if ('abort' in step) this.#controllers[step.abort % this.#controllers.length]?.abort();
    else if ('delta' in step) this.pick(step.delta, (id, index) => this.deliver(id, index));
    else this.pick(step.answer, (id, index) => this.answer(id, index));
  }

  make(method: string): void {
    const index = this.methods.push(method) - 1;
    const controller = new AbortController();
    this.#controllers.push(controller);
    const { signal } = controller;
    const settle = (how: string) => {
      this.settled.set(index, [...(this.settled.get(index) ?? []), how]);
    };
    if (method !== 'stream_echo') {
      const promise = call(this.runtime, method, index, { signal });
      promise.then(
        (value) => settle(value === index ? 'answer' : `answer of ${String(value)}`),
        (error) => settle(error.code),
      );
      return;
    }
    const stream = new TokenStream<unknown>(
      this.runtime.connection,
      99,
      (data) => data as unknown[],
    );
    this.runtime.connection.send(stream, method, { data: index }, { signal }, 99);
    const drain = async (): Promise<string> => {
      while (!(await stream.next()).done);
      return 'answer';
    };
    drain().then(settle, (error) => settle(error.code));
  }

  async read(): Promise<void> {
    await turn();
    this.readNow();
  }

  /** Read what was written; requests come in the order in which they were made. */
  readNow(): void {
    const sent: number[] = [];
    for (const [kind, id, , params] of this.runtime.receivedNow()) {
      if (kind !== 1) continue;
      const index = (params as { data: number }).data;
      this.#read.set(id as number, index);
      this.writes.set(index, (this.writes.get(index) ?? 0) + 1);
      sent.push(index);
    }
    expect(sent).toEqual([...sent].sort((one, other) => one - other));
  }

  pick(choice: number, act: (id: number, index: number) => void): void {
    const entry = [...this.#read][choice % this.#read.size];
    if (entry !== undefined && this.#isAlive) act(...entry);
  }

  deliver(id: number, index: number): void {
    if (this.methods[index] !== 'stream_echo') return;
    this.delivered.add(index);
    this.runtime.send([4, id, 1, ['x']]);
  }

  answer(id: number, index: number): void {
    this.#read.delete(id);
    this.runtime.send([2, id, index]);
  }

  die(): void {
    if (!this.#isAlive) return;
    this.#isAlive = false;
    this.readNow();
    this.runtime.die();
    this.#read.clear();
  }

  revive(): void {
    if (this.#isAlive) return;
    this.#isAlive = true;
    this.runtime.revive();
  }

  /** The last process answers everything. */
  async finish(): Promise<void> {
    this.revive();
    for (let rounds = 0; rounds < 500 && this.runtime.connection.isBusy; rounds++) {
      await this.read();
      for (const [id, index] of [...this.#read]) this.answer(id, index);
    }
    await turn();
  }
}

test('whatever happens, each request settles once, and is repeated only where that is harmless', async () => {
  const arbitrary = fc.array(STEP, { maxLength: 80 });
  await fc.assert(
    fc.asyncProperty(arbitrary, fc.constantFrom(2, 1_000), async (steps, inFlight) => {
      const history = new History(inFlight);
      for (const step of steps) await history.step(step);
      await history.finish();
      for (const [index, method] of history.methods.entries()) {
        const outcomes = history.settled.get(index) ?? [];
        expect(outcomes).toHaveLength(1);
        expect(['answer', 'CANCELLED', 'RUNTIME_EXITED']).toContain(outcomes[0]);
        const writes = history.writes.get(index) ?? 0;
        const isRepeatable = IDEMPOTENT.has(method) && !history.delivered.has(index);
        expect(writes).toBeLessThanOrEqual(IDEMPOTENT.has(method) ? 2 : 1);
        if (outcomes[0] === 'RUNTIME_EXITED') expect(writes).toBeGreaterThan(0);
        if (outcomes[0] === 'RUNTIME_EXITED' && isRepeatable) expect(writes).toBe(2);
      }
      const { connection, broken } = history.runtime;
      expect([connection.isBusy, connection.queuedBytes, broken]).toEqual([false, 0, []]);
      expect(connection.droppedReplies).toBe(0);
    }),
    { numRuns: 300 },
  );
});
