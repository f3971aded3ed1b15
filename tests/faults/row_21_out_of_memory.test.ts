/** Row 21: the system takes a runtime that needs too much memory: the error says what to do. */

import { expect, test } from 'vitest';
import type { Runtime, RuntimeExitedError } from '../../bridge/dist/index.js';
import {
  failure,
  faultyCommand,
  kill,
  ONCE,
  start,
  startFake,
  startFaulty,
  temporaryFolder,
  waitUntil,
  writeChain,
} from './support.js';

const HINT = /perhaps it ran out of memory: load a smaller model or set --model-memory-bytes/;

/** Wait until a process has been replaced. */
const replaced = (runtime: Runtime, pid: number): Promise<number> =>
  waitUntil(() => runtime.state === 'running' && runtime.hello.pid !== pid, 'a new process');

test('killed by the system: pending calls carry the hint', async () => {
  const runtime = await startFaulty(ONCE);
  const pending = failure(runtime.call('fault_sleep', { seconds: 600 }));
  await runtime.ping();
  kill(runtime.hello.pid);
  const error = (await pending) as RuntimeExitedError;
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL' });
  expect(error.message).toMatch(HINT);
});

test.each([
  "terminate called after throwing an instance of 'std::bad_alloc'",
  'MemoryError',
  'OSError: [Errno 12] Cannot allocate memory',
  '[malloc] Unable to allocate 8589934592 bytes.',
])('last words "%s" carry the hint', async (words) => {
  const runtime = await startFake('last-words', words, ONCE);
  const error = await failure(runtime.echo(1));
  expect(error.message).toContain(words);
  expect(error.message).toMatch(HINT);
});

test('under a limit of its address space, a segmentation fault carries the hint', async () => {
  const limited = ['sh', '-c', 'ulimit -v 16000000; exec "$@"', 'sh', ...faultyCommand()] as const;
  const runtime = await start({ ...ONCE, command: limited });
  const error = await failure(runtime.call('fault_kill', { signal: 'SIGSEGV' }));
  expect(error).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGSEGV' });
  expect(error.message).toMatch(HINT);
});

test('an end of another kind carries none', async () => {
  const runtime = await startFake('last-words', 'Segmentation fault', ONCE);
  expect((await failure(runtime.echo(1))).message).not.toMatch(/memory/);
});

test('a model whose loading is killed is loaded by itself once, and then when it is asked for', async () => {
  const folder = writeChain(temporaryFolder());
  const runtime = await startFaulty({ restart: { backoffMs: 1 } }, '--faults');
  const model = await runtime.loadModel(folder);
  const first = runtime.hello.pid;
  kill(first);
  await replaced(runtime, first);
  await runtime.injectFault('model.load:crash');
  const error = await failure(model.generate({ prompt: 'a' }));
  expect(error).toMatchObject({ code: 'MODEL_LOAD_FAILED', details: { cause: 'crashed' } });
  expect(error.message).toMatch(HINT);
  const calls = Array.from({ length: 20 }, () => failure(model.generate({ prompt: 'a' })));
  for (const each of await Promise.all(calls)) expect(each.code).toBe('MODEL_LOAD_FAILED');
  expect((await runtime.health()).restarts).toBe(2);
  await runtime.loadModel(folder);
  expect((await model.generate({ prompt: 'a', maxTokens: 3 })).text).toBe('aaa');
});
