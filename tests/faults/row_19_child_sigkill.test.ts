/** Row 19: the runtime is killed, idle, in mid-frame and in mid-stream. */

import { expect, test } from 'vitest';
import type { IsthmusError, RuntimeExitedError } from '../../bridge/dist/index.js';
import {
  failure,
  kill,
  ONCE,
  startFake,
  startFaulty,
  temporaryFolder,
  waitUntil,
  writeChain,
} from './support.js';

/** The promise is 100 ms; three times that on a machine that may be busy. */
const SETTLES_WITHIN_MS = 300;

function expectKilled(error: IsthmusError): void {
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL', exitCode: null });
}

test('idle: the end is reported and later calls are refused with it', async () => {
  const runtime = await startFaulty(ONCE);
  kill(runtime.hello.pid);
  expect(await runtime.closed).toMatchObject({ exitCode: null, signal: 'SIGKILL' });
  expectKilled(await failure(runtime.echo(1)));
  expectKilled(await failure(runtime.loadModel('default')));
  expectKilled(await failure(runtime.ping()));
  expect(await runtime.close()).toMatchObject({ signal: 'SIGKILL' });
});

test('in the middle of a frame: nothing of it is delivered', async () => {
  const runtime = await startFake('half', '', ONCE);
  const pending = failure(runtime.echo(1));
  await waitUntil(() => runtime.stderr === 'in the middle', 'half of the answer is written');
  kill(runtime.hello.pid);
  const error = (await pending) as RuntimeExitedError;
  expectKilled(error);
  expect(error.stderrTail).toBe('in the middle');
});

test('in mid-stream: everything pending settles at once with what it already had', async () => {
  const folder = writeChain(temporaryFolder());
  const runtime = await startFaulty(ONCE);
  const model = await runtime.loadModel(folder);
  const request = { prompt: 'a', maxTokens: 100_000 };
  const received: string[] = [];
  let killedAt = 0;
  const iterated = (async () => {
    for await (const { text } of model.generate(request)) {
      received.push(text);
      if (received.length !== 3) continue;
      killedAt = performance.now();
      kill(runtime.hello.pid);
    }
  })();
  const settledAt: number[] = [];
  const note = async (promise: PromiseLike<unknown>): Promise<IsthmusError> => {
    const error = await failure(promise);
    settledAt.push(performance.now());
    return error;
  };
  const awaited = model.generate(request);
  const pending = [
    note(iterated),
    note(awaited),
    note(model.generate({ ...request, credit: 1 })),
    note(runtime.call('fault_sleep', { seconds: 600 })),
    note(model.tokenize('y'.repeat(2_000_000))),
  ];
  const errors = await Promise.all(pending);
  for (const error of errors) expectKilled(error);
  expect(Math.max(...settledAt) - killedAt).toBeLessThan(SETTLES_WITHIN_MS);
  const [fromLoop, fromPromise] = errors as [IsthmusError, IsthmusError];
  expect(fromLoop.partial?.text).toBe('a'.repeat(fromLoop.partial?.completionTokens ?? 0));
  expect(fromLoop.partial?.ids).toEqual(new Uint32Array(received.join('').length).fill(97));
  expect(fromLoop.partial?.text).toBe(received.join(''));
  expect(fromPromise.partial?.completionTokens).toBe(fromPromise.partial?.ids.length);
});

test('while 1000 calls are in flight: each settles exactly once', async () => {
  const runtime = await startFaulty(ONCE);
  const outcomes = new Map<number, number>();
  const calls = Array.from({ length: 1_000 }, (_, index) => {
    const count = (): unknown => outcomes.set(index, (outcomes.get(index) ?? 0) + 1);
    return runtime.call('fault_sleep', { seconds: 600 }).then(count, count);
  });
  await runtime.ping();
  kill(runtime.hello.pid);
  await Promise.all(calls);
  expect([...outcomes.values()]).toEqual(new Array(1_000).fill(1));
  expect(runtime.counters.queuedBytes).toBe(0);
});

test('with a successor: what never left and what may be repeated is answered, the rest is told', async () => {
  const runtime = await startFaulty();
  const [{ pid }, killedAt] = [runtime.hello, performance.now()];
  const lost = failure(runtime.call('fault_sleep', { seconds: 600 }));
  await runtime.ping();
  const repeated = Array.from({ length: 10 }, (_, index) => runtime.echo(index));
  kill(pid);
  expectKilled(await lost);
  expect(performance.now() - killedAt).toBeLessThan(10 * SETTLES_WITHIN_MS);
  const later = runtime.call('fault_sleep', { seconds: 0 });
  expect(await Promise.all(repeated)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(await later).toEqual({ slept: true });
  expect(runtime.hello.pid).not.toBe(pid);
  expect(runtime.state).toBe('running');
});
