import { describe, expect, test } from 'vitest';
import { Call } from '../../../bridge/src/connection/request.js';
import { DeadlineError, IsthmusError, RuntimeExitedError } from '../../../bridge/src/errors.js';
import { encode } from '../../../bridge/src/wire/codec.js';
import { FakeRuntime, failure, frame, turn } from '../support.js';

const same = <T>(value: T): T => value;
const echo = (runtime: FakeRuntime, data: unknown, options = {}) =>
  runtime.connection.call('echo', { data }, same, options);
const exited = () =>
  new RuntimeExitedError('gone', { exitCode: 1, signal: null, stderrTail: 'why' });

describe('the hello', () => {
  test('is answered by ours before anything else', async () => {
    const runtime = new FakeRuntime();
    const call = echo(runtime, 1);
    await turn();
    expect(runtime.pipe.chunks.map((chunk) => chunk[5])).toEqual([0]);
    runtime.send([2, 0, 1]);
    await call;
  });

  test('must come before requests', async () => {
    const runtime = new FakeRuntime({ hello: false });
    expect((await failure(echo(runtime, 1))).message).toMatch(/before the hello/);
  });

  test('of another version names both and how to fix it, and nothing is sent', async () => {
    const runtime = new FakeRuntime({ hello: false });
    runtime.send([0, { protocol: 99, runtime: '9.9.9' }]);
    const [error] = runtime.broken;
    expect(error?.code).toBe('VERSION_MISMATCH');
    expect(error?.message).toMatch(/9\.9\.9.*protocol 99.*protocol 1.*npm install/s);
    expect((await failure(echo(runtime, 1))).code).toBe('VERSION_MISMATCH');
    await turn();
    expect(runtime.pipe.chunks).toEqual([]);
  });

  test('comes once', () => {
    const runtime = new FakeRuntime();
    runtime.send([0, { protocol: 1 }]);
    expect(runtime.broken[0]?.message).toMatch(/second hello/);
  });
});

describe('a request', () => {
  test('settles with its own answer, in whatever order answers come', async () => {
    const runtime = new FakeRuntime();
    const calls = [echo(runtime, 'a'), echo(runtime, 'b'), echo(runtime, 'c')];
    runtime.send([2, 2, 'C'], [3, 1, { code: 'NUMERIC_ERROR', message: 'no' }], [2, 0, 'A']);
    expect(await calls[0]).toBe('A');
    expect(await failure(calls[1] as Promise<unknown>)).toMatchObject({ code: 'NUMERIC_ERROR' });
    expect(await calls[2]).toBe('C');
    expect(runtime.busy).toEqual([true, false]);
  });

  test('carries the error of the runtime with all its parts', async () => {
    const runtime = new FakeRuntime();
    const call = failure(echo(runtime, 1));
    const details = { field: 'prompt', completion_tokens: 3 };
    const error = { code: 'QUEUE_FULL', message: 'later', retryable: true, phase: 'queue' };
    runtime.send([3, 0, { ...error, retry_after_ms: 50, details }]);
    expect(await call).toMatchObject({
      ...error,
      retryAfterMs: 50,
      details: { field: 'prompt', completionTokens: 3 },
    });
  });

  test('that cannot be encoded fails alone', async () => {
    const runtime = new FakeRuntime();
    const [good, bad] = [echo(runtime, 'ok'), failure(echo(runtime, { text: '\ud800' }))];
    expect(await bad).toMatchObject({ code: 'INVALID_REQUEST', details: { field: 'data.text' } });
    expect(await runtime.received()).toEqual([[1, 0, 'echo', { data: 'ok' }]]);
    runtime.send([2, 0, 'ok']);
    expect(await good).toBe('ok');
  });

  test('whose result has the wrong shape fails, and the connection lives', async () => {
    const runtime = new FakeRuntime();
    const refuse = (): never => {
      throw new IsthmusError('REMOTE_PROTOCOL_ERROR', 'shape');
    };
    const call = failure(runtime.connection.call('echo', {}, refuse));
    runtime.send([2, 0, 1]);
    expect((await call).message).toBe('shape');
    expect(runtime.broken).toEqual([]);
  });

  test('beyond what the runtime takes waits here and is refused to nobody', async () => {
    const runtime = new FakeRuntime({ limits: { in_flight: 2 } });
    const calls = Array.from({ length: 6 }, (_, index) => echo(runtime, index));
    for (let index = 0; index < 6; index += 2) {
      const ids = (await runtime.received()).map(([, id]) => id);
      expect(ids).toEqual([index, index + 1]);
      runtime.send([2, index, index], [2, index + 1, index + 1]);
    }
    expect(await Promise.all(calls)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(runtime.connection.queuedBytes).toBe(0);
  });

  test('gets the progress events that name it', async () => {
    const runtime = new FakeRuntime();
    const steps: unknown[] = [];
    const call = new Promise((resolve, reject) => {
      const request = new Call(same, resolve, reject);
      request.onProgress = (step) => steps.push(step);
      runtime.connection.send(request, 'load_model', {}, {});
    });
    runtime.send([8, 'progress', { request: 0, done: 1 }], [8, 'progress', { request: 9 }]);
    runtime.send([2, 0, null]);
    await call;
    runtime.send([8, 'progress', { request: 0, done: 2 }]);
    expect(steps).toEqual([{ request: 0, done: 1 }]);
  });
});

describe('an abort', () => {
  test('rejects at once, tells the runtime once, and drops the late answer', async () => {
    const runtime = new FakeRuntime();
    const controller = new AbortController();
    const call = failure(echo(runtime, 1, { signal: controller.signal }));
    await runtime.received();
    const reason = new Error('my reason');
    controller.abort(reason);
    const error = await call;
    expect([error.name, error.code, error.cause]).toEqual(['AbortError', 'CANCELLED', reason]);
    expect(await runtime.received()).toEqual([[6, 0]]);
    runtime.send([2, 0, 'late']);
    expect(runtime.connection.droppedReplies).toBe(0);
    expect(runtime.broken).toEqual([]);
  });

  test('before the call sends nothing', async () => {
    const runtime = new FakeRuntime();
    const error = await failure(echo(runtime, 1, { signal: AbortSignal.abort() }));
    expect(error.name).toBe('AbortError');
    expect(await runtime.received()).toEqual([]);
    expect(runtime.busy).toEqual([]);
  });

  test('after the answer does nothing, and no listener stays', async () => {
    const runtime = new FakeRuntime();
    const controller = new AbortController();
    const call = echo(runtime, 1, { signal: controller.signal });
    await runtime.received();
    runtime.send([2, 0, 1]);
    expect(await call).toBe(1);
    controller.abort();
    expect(await runtime.received()).toEqual([]);
  });

  test('of a request that still waits here never reaches the runtime', async () => {
    const runtime = new FakeRuntime({ limits: { in_flight: 1 } });
    const controller = new AbortController();
    const [first, second, third] = [
      echo(runtime, 1),
      failure(echo(runtime, 2, { signal: controller.signal })),
      echo(runtime, 3),
    ];
    controller.abort();
    await second;
    runtime.send([2, 0, 1]);
    await first;
    expect((await runtime.received()).map(([kind, id]) => [kind, id])).toEqual([
      [1, 0],
      [1, 2],
    ]);
    runtime.send([2, 2, 3]);
    expect(await third).toBe(3);
  });

  test('never reaches a newer request, whatever the late answer', async () => {
    const runtime = new FakeRuntime();
    const controller = new AbortController();
    const old = failure(echo(runtime, 1, { signal: controller.signal }));
    controller.abort();
    await old;
    const next = echo(runtime, 2);
    runtime.send([3, 0, { code: 'CANCELLED', message: '' }], [2, 1, 'mine']);
    expect(await next).toBe('mine');
  });
});

describe('a deadline', () => {
  test('travels with the request, and its answer says where it passed', async () => {
    const runtime = new FakeRuntime();
    const call = failure(echo(runtime, 1, { deadlineMs: 5_000 }));
    expect(await runtime.received()).toEqual([[1, 0, 'echo', { data: 1 }, { deadline_ms: 5_000 }]]);
    runtime.send([3, 0, { code: 'DEADLINE_EXCEEDED', message: '', phase: 'queue' }]);
    const error = await call;
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error.phase).toBe('queue');
  });

  test('rejects without an answer too, and has the request stopped', async () => {
    let now = 0;
    const runtime = new FakeRuntime({ clock: () => now });
    const call = failure(echo(runtime, 1, { deadlineMs: 1 }));
    await runtime.received();
    now = 1_000;
    const error = await call;
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error.phase).toBe('unanswered');
    expect(await runtime.received()).toEqual([[6, 0]]);
  });
});

describe('the end of the runtime', () => {
  test('rejects everything pending, each once and with its own error', async () => {
    const runtime = new FakeRuntime();
    const calls = [failure(echo(runtime, 1)), failure(echo(runtime, 2))];
    const ping = failure(runtime.connection.ping());
    runtime.end(exited);
    const errors = await Promise.all([...calls, ping]);
    expect(new Set(errors).size).toBe(3);
    for (const error of errors) expect(error).toBeInstanceOf(RuntimeExitedError);
    runtime.die();
    runtime.send([2, 0, 'late']);
    expect(await failure(echo(runtime, 3))).toMatchObject({ code: 'RUNTIME_EXITED' });
    expect(runtime.busy).toEqual([true, false]);
  });

  test('tells requests that were sent from those that were not', async () => {
    const runtime = new FakeRuntime({ limits: { in_flight: 1 } });
    const calls = [failure(echo(runtime, 1)), failure(echo(runtime, 2))];
    await turn();
    const told: boolean[] = [];
    runtime.end((isSent) => {
      told.push(isSent);
      return exited();
    });
    await Promise.all(calls);
    expect(told.slice(-2)).toEqual([true, false]);
  });

  test('within a frame is reported', () => {
    const runtime = new FakeRuntime();
    runtime.link.push(Buffer.from([0, 0, 0]));
    runtime.link.end();
    expect(runtime.broken[0]).toMatchObject({
      code: 'REMOTE_PROTOCOL_ERROR',
      details: { kind: 'truncated' },
    });
  });
});

describe('a runtime that breaks the rules', () => {
  test('with a reply for nobody has it counted and dropped', async () => {
    const runtime = new FakeRuntime();
    runtime.send([2, 77, 'x'], [4, 78, 1, ['x']], [5, 79, {}], [3, 80, { code: 'X' }], [10, 5, {}]);
    expect(runtime.connection.droppedReplies).toBe(5);
    expect(runtime.broken).toEqual([]);
    const call = echo(runtime, 1);
    runtime.send([2, 0, 'mine'], [2, 0, 'again']);
    expect(await call).toBe('mine');
    expect(runtime.connection.droppedReplies).toBe(6);
  });

  test('with an event nobody knows has it passed on and counted', () => {
    const runtime = new FakeRuntime();
    runtime.send([8, 'later', { a: 1 }], [8, 'closing', {}]);
    expect(runtime.events).toEqual([
      ['later', { a: 1 }],
      ['closing', {}],
    ]);
    expect(runtime.connection.unknownEvents).toBe(1);
  });

  test('with an answer that cannot be decoded fails that request alone', async () => {
    const runtime = new FakeRuntime();
    const [bad, good] = [failure(echo(runtime, 1)), echo(runtime, 2)];
    runtime.sendRaw('930200c1');
    runtime.send([2, 1, 'fine']);
    expect((await bad).code).toBe('DECODE_ERROR');
    expect(await good).toBe('fine');
    expect(runtime.broken).toEqual([]);
  });

  test('with a payload that shows no request breaks the connection', async () => {
    const runtime = new FakeRuntime();
    runtime.sendRaw('9308c1c0');
    expect(runtime.broken[0]?.code).toBe('DECODE_ERROR');
    expect((await failure(echo(runtime, 1))).code).toBe('DECODE_ERROR');
  });

  test('with a delta for a request that is no stream fails that request', async () => {
    const runtime = new FakeRuntime();
    const call = failure(echo(runtime, 1));
    runtime.send([4, 0, 1, ['x']]);
    expect((await call).message).toMatch(/no stream/);
    expect(await runtime.received()).toEqual([
      [1, 0, 'echo', { data: 1 }],
      [6, 0],
    ]);
  });

  test('is read no further once the framing broke', () => {
    const runtime = new FakeRuntime();
    runtime.link.push(Buffer.from('ffffffff', 'hex'));
    runtime.link.push(frame(encode([8, 'later', {}])));
    expect(runtime.broken.map(({ code }) => code)).toEqual(['FRAME_TOO_LARGE']);
    expect(runtime.events).toEqual([]);
  });

  test('is told apart from an error of ours that it reports', () => {
    const runtime = new FakeRuntime();
    runtime.send([3, null, { code: 'DECODE_ERROR', message: 'your fault', retryable: false }]);
    expect(runtime.broken[0]?.message).toBe('your fault');
  });
});

describe('pieces', () => {
  const inPieces = (value: unknown, channel: number): unknown[][] => {
    const payload = encode(value);
    return [
      [11, channel, 0, payload.subarray(0, 5)],
      [11, channel, 1, payload.subarray(5)],
    ];
  };

  test('of an answer are put together while other answers pass', async () => {
    const runtime = new FakeRuntime();
    const [large, small] = [echo(runtime, 1), echo(runtime, 2)];
    const [first, last] = inPieces([2, 0, 'x'.repeat(100)], 3) as [unknown[], unknown[]];
    runtime.send(first, [2, 1, 'small'], last);
    expect(await small).toBe('small');
    expect(await large).toBe('x'.repeat(100));
  });

  test('inside pieces break the connection', () => {
    const runtime = new FakeRuntime();
    runtime.send(...inPieces([11, 1, 1, new Uint8Array(9)], 2));
    expect(runtime.broken[0]?.message).toMatch(/piece inside a piece/);
  });
});

test('a ping has its own numbers and gets its own pong', async () => {
  const runtime = new FakeRuntime();
  const pings = [runtime.connection.ping(), runtime.connection.ping()];
  expect(await runtime.received()).toEqual([
    [9, 0],
    [9, 1],
  ]);
  runtime.send([10, 1, { in_flight: 1 }], [10, 0, { in_flight: 0 }]);
  expect(await Promise.all(pings)).toEqual([{ in_flight: 0 }, { in_flight: 1 }]);
});

test('ten thousand calls leave nothing behind', async () => {
  const runtime = new FakeRuntime();
  for (let round = 0; round < 10; round++) {
    const calls = Array.from({ length: 1_000 }, (_, index) => echo(runtime, index));
    const ids = (await runtime.received()).map(([, id]) => id);
    runtime.send(...ids.map((id, index) => [2, id, index]));
    expect(await Promise.all(calls)).toEqual(Array.from({ length: 1_000 }, (_, index) => index));
  }
  expect(runtime.connection.queuedBytes).toBe(0);
  expect(runtime.connection.droppedReplies).toBe(0);
  expect(runtime.busy.at(-1)).toBe(false);
  expect(runtime.busy).toHaveLength(20);
});

test('a call that settles twice keeps its first answer', async () => {
  const call = new Promise((resolve, reject) => {
    const request = new Call(same, resolve, reject);
    request.succeed(1);
    request.fail(exited());
  });
  expect(await call).toBe(1);
});
