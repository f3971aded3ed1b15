import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IsthmusError, RuntimeExitedError } from '../../../bridge/src/errors.js';
import { Model } from '../../../bridge/src/model.js';
import type { ModelInfo } from '../../../bridge/src/model-info.js';
import { FakeRuntime, failure, type Message, turn } from '../support.js';

interface Bench {
  readonly runtime: FakeRuntime;
  readonly model: Model;
  /** Let the clock go on, with what the timers do. */
  advance(ms: number): void;
}

function setUp(options: { multiplex?: boolean } = {}): Bench {
  let now = 0;
  const runtime = new FakeRuntime({ ...options, clock: () => now });
  const model = new Model(runtime.connection, { model: 'm1' } as ModelInfo, 16);
  return {
    runtime,
    model,
    advance: (ms) => {
      now += ms;
    },
  };
}

/** What a runtime answers: a text's length, and errors of its own for bad items. */
function answer([, id, method, params]: Message): unknown[] {
  const { text, texts } = params as { text?: string; texts?: string[] };
  const one = (item: unknown, field: string): unknown => {
    if (typeof item === 'string') return { count: item.length };
    return {
      error: { code: 'INVALID_REQUEST', message: `${field} must be a string`, details: { field } },
    };
  };
  if (method === 'batch_count_tokens') {
    return [2, id, { results: texts?.map((item, index) => one(item, `texts[${index}]`)) }];
  }
  const { error, ...result } = one(text, 'text') as { error?: unknown };
  return error === undefined ? [2, id, result] : [3, id, error];
}

const shown = ([, , method, params]: Message): unknown => {
  const { text, texts } = params as { text?: string; texts?: string[] };
  return [method, texts ?? text];
};

const reasons = (runtime: FakeRuntime): unknown[] =>
  Object.values(runtime.connection.laneStats).map((stats) =>
    Object.fromEntries(Object.entries(stats.reasons).filter(([, count]) => count > 0)),
  );

describe('calls of one turn', () => {
  test('travel alone when there is one, at the end of its turn', async () => {
    const { runtime, model } = setUp();
    const call = model.countTokens('abc');
    const [request] = await runtime.received();
    expect(shown(request as Message)).toEqual(['count_tokens', 'abc']);
    runtime.send(answer(request as Message));
    expect(await call).toBe(3);
    expect(reasons(runtime)).toEqual([{ turn: 1 }]);
  });

  test('travel as one frame, each with its own result', async () => {
    const { runtime, model } = setUp();
    const calls = ['a', 'bb', 'ccc'].map((text) => model.countTokens(text));
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['batch_count_tokens', ['a', 'bb', 'ccc']]]);
    runtime.send(...requests.map(answer));
    expect(await Promise.all(calls)).toEqual([1, 2, 3]);
  });

  test('are parted by operation, options and deadline', async () => {
    const { runtime, model } = setUp();
    const calls = [
      model.countTokens('a'),
      model.countTokens('b', { addSpecialTokens: false }),
      model.countTokens('c', { deadlineMs: 1_000 }),
      model.tokenize('d'),
      model.countTokens('e'),
    ];
    for (const call of calls) call.catch(() => undefined);
    expect((await runtime.received()).map(shown)).toEqual([
      ['batch_count_tokens', ['a', 'e']],
      ['count_tokens', 'b'],
      ['count_tokens', 'c'],
      ['tokenize', 'd'],
    ]);
  });

  test('are at most 256 a frame', async () => {
    const { runtime, model } = setUp();
    const calls = Array.from({ length: 1_000 }, (_, index) =>
      model.countTokens('x'.repeat(index % 200)),
    );
    const requests = await runtime.received();
    expect(requests.map(([, , , params]) => (params as { texts: string[] }).texts.length)).toEqual([
      256, 256, 256,
    ]);
    runtime.send(...requests.map(answer));
    runtime.send(...(await runtime.received()).map(answer));
    expect(await Promise.all(calls)).toEqual(calls.map((_, index) => index % 200));
    expect(Object.values(runtime.connection.laneStats)[0]).toMatchObject({
      frames: 4,
      calls: 1_000,
      largest: 256,
      sizes: { 256: 4 },
    });
  });

  test('keep their own error when one is bad, under the name its caller knows', async () => {
    const { runtime, model } = setUp();
    const calls = [model.countTokens('a'), model.countTokens(5 as never), model.countTokens('b')];
    const failed = failure(calls[1] as Promise<number>);
    runtime.send(...(await runtime.received()).map(answer));
    expect(await failed).toMatchObject({
      code: 'INVALID_REQUEST',
      message: 'text must be a string',
      details: { field: 'text' },
    });
    expect([await calls[0], await calls[2]]).toEqual([1, 1]);
  });

  test('whatever a caller without types passes, the next call is served', async () => {
    const { runtime, model } = setUp();
    const odd = [null, undefined, 5, { length: 'x' }, { length: Number.NaN }, { length: -1 }, []];
    const calls = odd.map((text) => failure(model.countTokens(text as never)));
    const good = model.countTokens('abc');
    runtime.send(...(await runtime.received()).map(answer));
    for (const error of await Promise.all(calls)) expect(error.code).toBe('INVALID_REQUEST');
    expect(await good).toBe(3);
  });

  test('are sent one by one when an item cannot travel', async () => {
    const { runtime, model } = setUp();
    const calls = [model.countTokens('a'), model.countTokens('\ud800'), model.countTokens('b')];
    const failed = failure(calls[1] as Promise<number>);
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([
      ['count_tokens', 'a'],
      ['count_tokens', 'b'],
    ]);
    runtime.send(...requests.map(answer));
    expect(await failed).toMatchObject({ code: 'INVALID_REQUEST', details: { field: 'text' } });
    expect([await calls[0], await calls[2]]).toEqual([1, 1]);
    const later = model.countTokens('c');
    runtime.send(...(await runtime.received()).map(answer));
    expect(await later).toBe(1);
  });

  test('get an error of their own each when the frame fails', async () => {
    const { runtime, model } = setUp();
    const calls = [model.countTokens('a'), model.countTokens('b')].map(failure);
    const [request] = await runtime.received();
    runtime.send([3, request?.[1], { code: 'MODEL_NOT_LOADED', message: 'no', details: { a: 1 } }]);
    const [one, other] = await Promise.all(calls);
    expect(one).toMatchObject({ code: 'MODEL_NOT_LOADED', details: { a: 1 } });
    expect(other).toMatchObject({ code: 'MODEL_NOT_LOADED', details: { a: 1 } });
    expect(one).not.toBe(other);
    expect(one?.details).not.toBe(other?.details);
  });

  test('fail when the answer has another number of results', async () => {
    const { runtime, model } = setUp();
    const calls = [model.countTokens('a'), model.countTokens('b')].map(failure);
    const [request] = await runtime.received();
    runtime.send([2, request?.[1], { results: [{ count: 1 }] }]);
    for (const error of await Promise.all(calls)) expect(error.code).toBe('REMOTE_PROTOCOL_ERROR');
  });

  test('travel singly when multiplexing is off', async () => {
    const { runtime, model } = setUp({ multiplex: false });
    const calls = [model.countTokens('a'), model.countTokens('b')];
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([
      ['count_tokens', 'a'],
      ['count_tokens', 'b'],
    ]);
    runtime.send(...requests.map(answer));
    expect(await Promise.all(calls)).toEqual([1, 1]);
  });
});

describe('while a batch is in flight', () => {
  async function busy(): Promise<Bench & { first: Promise<number>; request: Message }> {
    const bench = setUp();
    const first = bench.model.countTokens('first');
    const [request] = await bench.runtime.received();
    return { ...bench, first, request: request as Message };
  }

  test('calls collect and leave with its answer', async () => {
    const { runtime, model, first, request } = await busy();
    const calls = [model.countTokens('a')];
    expect(await runtime.received()).toEqual([]);
    calls.push(model.countTokens('bb'));
    expect(await runtime.received()).toEqual([]);
    runtime.send(answer(request));
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['batch_count_tokens', ['a', 'bb']]]);
    runtime.send(...requests.map(answer));
    expect(await Promise.all([first, ...calls])).toEqual([5, 1, 2]);
    expect(reasons(runtime)).toEqual([{ turn: 1, reply: 1 }]);
  });

  test('calls leave when their time is up, answered or not', async () => {
    const { runtime, model, advance, first, request } = await busy();
    const call = model.countTokens('a');
    expect(await runtime.received()).toEqual([]);
    advance(4.1);
    const other = model.countTokens('b');
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['batch_count_tokens', ['a', 'b']]]);
    runtime.send(...requests.map(answer), answer(request));
    expect(await Promise.all([first, call, other])).toEqual([5, 1, 1]);
    expect(reasons(runtime)).toEqual([{ turn: 1, time: 1 }]);
  });

  test('a large call does not wait, and nobody waits for it', async () => {
    const { runtime, model, first, request } = await busy();
    const large = model.countTokens('x'.repeat(100_000));
    const small = model.countTokens('a');
    await turn();
    await turn();
    const [sent, ...more] = await runtime.received();
    expect([sent?.[0], more.every(([kind]) => kind === 11)]).toEqual([11, true]);
    runtime.send(answer(request));
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['count_tokens', 'a']]);
    runtime.send(...requests.map(answer), [2, 1, { count: 100_000 }]);
    expect(await Promise.all([first, small, large])).toEqual([5, 1, 100_000]);
  });

  test('a collecting call that is aborted is never sent', async () => {
    const { runtime, model, first, request } = await busy();
    const controller = new AbortController();
    const gone = failure(model.countTokens('gone', { signal: controller.signal }));
    const kept = model.countTokens('kept');
    await turn();
    controller.abort();
    expect(await gone).toMatchObject({ code: 'CANCELLED' });
    runtime.send(answer(request));
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['count_tokens', 'kept']]);
    runtime.send(...requests.map(answer));
    expect(await Promise.all([first, kept])).toEqual([5, 4]);
  });

  test('nothing is sent when all that collected was aborted', async () => {
    const { runtime, model, first, request } = await busy();
    const controller = new AbortController();
    const gone = failure(model.countTokens('gone', { signal: controller.signal }));
    controller.abort();
    expect(await gone).toMatchObject({ code: 'CANCELLED' });
    runtime.send(answer(request));
    expect(await runtime.received()).toEqual([]);
    expect(await first).toBe(5);
    expect(runtime.busy).toEqual([true, false]);
  });

  test('an aborted call of a batch gives up its place, and the batch goes on', async () => {
    const { runtime, model } = setUp();
    const controller = new AbortController();
    const { signal } = controller;
    const gone = failure(model.countTokens('gone', { signal }));
    const kept = model.countTokens('kept');
    const requests = await runtime.received();
    controller.abort();
    expect(await gone).toMatchObject({ code: 'CANCELLED' });
    expect(await runtime.received()).toEqual([]);
    runtime.send(...requests.map(answer));
    expect(await kept).toBe(4);
  });

  test('a batch that nobody waits for is cancelled', async () => {
    const { runtime, model } = setUp();
    const controller = new AbortController();
    const { signal } = controller;
    const calls = ['a', 'b'].map((text) => failure(model.countTokens(text, { signal })));
    const [request] = await runtime.received();
    controller.abort();
    for (const error of await Promise.all(calls)) expect(error.code).toBe('CANCELLED');
    expect(await runtime.received()).toEqual([[6, request?.[1]]]);
    runtime.send([3, request?.[1], { code: 'CANCELLED', message: 'gone' }]);
    expect(runtime.connection.droppedReplies).toBe(0);
    expect(runtime.busy).toEqual([true, false]);
  });

  test('one signal stops many calls with one listener, which goes with the last of them', async () => {
    const { runtime, model } = setUp();
    const { signal } = new AbortController();
    let listeners = 0;
    signal.addEventListener = new Proxy(signal.addEventListener, {
      apply: (add, self, args) => {
        listeners++;
        return Reflect.apply(add, self, args);
      },
    });
    signal.removeEventListener = new Proxy(signal.removeEventListener, {
      apply: (remove, self, args) => {
        listeners--;
        return Reflect.apply(remove, self, args);
      },
    });
    const calls = Array.from({ length: 50 }, () => model.countTokens('a', { signal }));
    expect(listeners).toBe(1);
    runtime.send(...(await runtime.received()).map(answer));
    await Promise.all(calls);
    expect(listeners).toBe(0);
  });

  test('a lone call can be aborted too', async () => {
    const { runtime, model } = setUp();
    const controller = new AbortController();
    const gone = failure(model.countTokens('a', { signal: controller.signal }));
    const [request] = await runtime.received();
    controller.abort();
    expect(await gone).toMatchObject({ code: 'CANCELLED' });
    expect(await runtime.received()).toEqual([[6, request?.[1]]]);
  });

  test('a call whose signal has fired already is not made', async () => {
    const { runtime, model } = setUp();
    const signal = AbortSignal.abort();
    expect(await failure(model.countTokens('a', { signal }))).toMatchObject({ code: 'CANCELLED' });
    expect(await runtime.received()).toEqual([]);
  });

  test('a deadline that passes while a call collects fails it, and it never runs', async () => {
    const { runtime, model, advance } = setUp();
    const first = model.countTokens('first', { deadlineMs: 2 });
    const [request] = await runtime.received();
    const late = failure(model.countTokens('late', { deadlineMs: 2 }));
    await turn();
    advance(3);
    runtime.send(answer(request as Message));
    expect(await late).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'queue' });
    expect(await runtime.received()).toEqual([]);
    expect(await first).toBe(5);
  });

  test('a deadline that passes while calls collect fails only those that it has passed for', async () => {
    const { runtime, model, advance } = setUp();
    const first = model.countTokens('first', { deadlineMs: 3 });
    const [request] = await runtime.received();
    const late = failure(model.countTokens('late', { deadlineMs: 3 }));
    await turn();
    advance(2);
    const inTime = model.countTokens('in time', { deadlineMs: 3 });
    await turn();
    advance(1.5);
    runtime.send(answer(request as Message));
    expect(await late).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'queue' });
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['count_tokens', 'in time']]);
    expect(requests[0]?.[4]).toEqual({ deadline_ms: 1.5 });
    runtime.send(...requests.map(answer));
    expect(await Promise.all([first, inTime])).toEqual([5, 7]);
  });

  test('the frame carries what is left of its deadline', async () => {
    const { runtime, model, advance } = setUp();
    const first = model.countTokens('first', { deadlineMs: 50 });
    const [request] = await runtime.received();
    expect(request?.[4]).toEqual({ deadline_ms: 50 });
    const second = model.countTokens('second', { deadlineMs: 50 });
    await turn();
    advance(3);
    runtime.send(answer(request as Message));
    const requests = await runtime.received();
    expect(requests[0]?.[4]).toEqual({ deadline_ms: 47 });
    runtime.send(...requests.map(answer));
    expect(await Promise.all([first, second])).toEqual([5, 6]);
  });

  test('the end of the runtime settles what collects, each with its own error', async () => {
    const { runtime, model, first } = await busy();
    const calls = [first, model.countTokens('a'), model.countTokens('b')].map(failure);
    const report = { exitCode: null, signal: 'SIGKILL' as const, stderrTail: 'why' };
    runtime.end(() => new RuntimeExitedError('gone', report));
    const errors = await Promise.all(calls);
    for (const error of errors) expect(error).toMatchObject({ signal: 'SIGKILL', message: 'gone' });
    expect(new Set(errors).size).toBe(3);
    expect(runtime.busy).toEqual([true, false]);
    expect((await failure(model.countTokens('later'))).code).toBe('RUNTIME_EXITED');
  });

  test('the end of the runtime settles each call of a batch with its own error', async () => {
    const { runtime, model } = setUp();
    const calls = [model.countTokens('a'), model.countTokens('b')].map(failure);
    await runtime.received();
    const report = { exitCode: 3, signal: null, stderrTail: 'why' };
    runtime.end(() => new RuntimeExitedError('gone', report));
    const errors = await Promise.all(calls);
    for (const error of errors) expect(error).toMatchObject({ exitCode: 3, stderrTail: 'why' });
    expect(new Set(errors).size).toBe(2);
  });

  test('closing sends what collects before it takes nothing more', async () => {
    const { runtime, model, first, request } = await busy();
    const call = model.countTokens('a');
    runtime.connection.refuse(() => new IsthmusError('CLOSING', 'closing'));
    const requests = await runtime.received();
    expect(requests.map(shown)).toEqual([['count_tokens', 'a']]);
    expect((await failure(model.countTokens('later'))).code).toBe('CLOSING');
    runtime.send(answer(request), ...requests.map(answer));
    expect(await Promise.all([first, call])).toEqual([5, 1]);
  });

  test('unload does not overtake calls that travel in pieces', async () => {
    const { runtime, model } = setUp();
    runtime.pipe.isHolding = true;
    const calls = Array.from({ length: 5 }, () => model.countTokens('x'.repeat(50_000)));
    for (const call of [...calls, model.unload()]) call.catch(() => undefined);
    const kinds: unknown[] = [];
    for (let round = 0; round < 20; round++) {
      kinds.push(...(await runtime.received()).map(([kind, , method]) => method ?? kind));
      runtime.pipe.takeOne();
      await turn();
    }
    expect(kinds.at(-1)).toBe('unload_model');
    expect(kinds.filter((kind) => kind !== 'unload_model').length).toBeGreaterThan(3);
  });

  test('unload waits for no message that never leaves', async () => {
    const { runtime, model } = setUp();
    runtime.pipe.isHolding = true;
    const call = failure(model.countTokens('x'.repeat(500_000)));
    const unload = model.unload();
    await turn();
    const report = { exitCode: 1, signal: null, stderrTail: '' };
    runtime.end(() => new RuntimeExitedError('gone', report));
    expect((await call).code).toBe('RUNTIME_EXITED');
    expect(await unload).toEqual({ unloaded: true, references: 0, resident: false });
  });

  test('unload does not overtake the calls before it', async () => {
    const { runtime, model } = await busy();
    const calls = [model.countTokens('a'), model.unload()];
    for (const call of calls) call.catch(() => undefined);
    const methods = (await runtime.received()).map(([, , method]) => method);
    expect(methods).toEqual(['count_tokens', 'unload_model']);
  });
});

test('whatever the order of calls, cancels, answers and ends, each call settles once with its own', async () => {
  const step = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({ call: fc.integer({ min: 0, max: 30 }), bad: fc.boolean() }),
    },
    { weight: 2, arbitrary: fc.record({ abort: fc.integer({ min: 0, max: 40 }) }) },
    { weight: 3, arbitrary: fc.record({ answer: fc.integer({ min: 0, max: 3 }) }) },
    { weight: 2, arbitrary: fc.record({ advance: fc.integer({ min: 0, max: 5 }) }) },
    { weight: 3, arbitrary: fc.constant({ turn: true as const }) },
    { weight: 1, arbitrary: fc.constantFrom({ crash: true as const }, { close: true as const }) },
  );
  const property = fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
    const { runtime, model, advance } = setUp();
    const calls: { settled: Promise<unknown>; abort: AbortController; size: number }[] = [];
    const requests: Message[] = [];
    let end: 'crash' | 'close' | undefined;
    const aborted = new Set<number>();
    const take = async (): Promise<void> => {
      requests.push(...(await runtime.received()).filter(([kind]) => kind === 1));
    };
    for (const one of steps) {
      if ('call' in one) {
        const abort = new AbortController();
        const text = one.bad ? 7 : 'x'.repeat(one.call);
        const options = one.call % 2 === 0 ? { signal: abort.signal } : {};
        const call = model.countTokens(text as string, options);
        const settled = call.catch((error: IsthmusError) => error.code);
        calls.push({ settled, abort, size: one.bad ? -1 : one.call });
      } else if ('abort' in one) {
        const call = calls[one.abort];
        if (call !== undefined && call.size % 2 === 0) aborted.add(one.abort);
        call?.abort.abort();
      } else if ('answer' in one) {
        await take();
        const [request] = requests.splice(one.answer, 1);
        if (request !== undefined && end !== 'crash') runtime.send(answer(request));
      } else if ('advance' in one) {
        advance(one.advance);
      } else if ('turn' in one) {
        await take();
      } else if ('crash' in one) {
        end = 'crash';
        const report = { exitCode: 1, signal: null, stderrTail: '' };
        runtime.end(() => new RuntimeExitedError('gone', report));
      } else {
        end ??= 'close';
        runtime.connection.refuse(() => new IsthmusError('CLOSING', 'closing'));
      }
    }
    for (let round = 0; round < 20 && end !== 'crash'; round++) {
      await take();
      advance(5);
      if (requests.length > 0) runtime.send(...requests.splice(0).map(answer));
    }
    const explained = new Set(['INVALID_REQUEST', 'CANCELLED', 'RUNTIME_EXITED', 'CLOSING']);
    for (const [index, { settled, size }] of calls.entries()) {
      const outcome = await settled;
      if (typeof outcome === 'number') expect(outcome).toBe(size);
      else expect(explained).toContain(outcome);
      if (outcome === 'INVALID_REQUEST') expect(size).toBe(-1);
      if (outcome === 'CANCELLED') expect(size === -1 || aborted.has(index)).toBe(true);
      if (outcome === 'RUNTIME_EXITED') expect(end).toBe('crash');
      if (end === undefined && size >= 0 && !aborted.has(index)) expect(outcome).toBe(size);
    }
    if (calls.length > 0 && runtime.busy.length > 0) expect(runtime.busy.at(-1)).toBe(false);
  });
  const numRuns = Number(process.env.ISTHMUS_EXAMPLES ?? 200);
  await fc.assert(property, { numRuns });
});
