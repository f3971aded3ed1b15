/** Row 33: the engine dies or hangs while the event loop answers: the runtime is replaced. */

import { expect, test } from 'vitest';
import { failure, startFaulty, temporaryFolder, waitUntil, writeChain } from './support.js';

test('dead: its own answer arrives, and the next generation finds a new engine', async () => {
  const folder = writeChain(temporaryFolder());
  const runtime = await startFaulty({}, '--faults');
  const model = await runtime.loadModel(folder);
  const { pid } = runtime.hello;
  await runtime.injectFault('engine.step:fail');
  const error = await failure(model.generate({ prompt: 'a', maxTokens: 4 }));
  expect(['ENGINE_DEAD', 'RUNTIME_UNRESPONSIVE']).toContain(error.code);
  await waitUntil(() => runtime.state === 'running' && runtime.hello.pid !== pid, 'a new process');
  expect((await model.generate({ prompt: 'a', maxTokens: 4 })).text).toBe('aaaa');
  const health = await runtime.health();
  expect(health).toMatchObject({ isReady: true, restarts: 1 });
  expect(health.lastExit?.signal).toBe('SIGKILL');
});

test('stuck: the generation fails with what it had, and the next one runs', async () => {
  const folder = writeChain(temporaryFolder());
  const runtime = await startFaulty({ heartbeat: { intervalMs: 50, stuckMs: 500 } }, '--faults');
  const model = await runtime.loadModel(folder);
  await model.generate({ prompt: 'a', maxTokens: 2 });
  const generation = model.generate({ prompt: 'a', maxTokens: 100_000 });
  const deltas = generation[Symbol.asyncIterator]();
  await deltas.next();
  await runtime.injectFault('engine.step:hang');
  const error = await failure(generation);
  expect(error).toMatchObject({
    code: 'RUNTIME_UNRESPONSIVE',
    retryable: false,
    details: { cause: 'engine_stuck' },
  });
  expect(error.partial?.completionTokens).toBeGreaterThan(0);
  expect((await model.generate({ prompt: 'a', maxTokens: 4 })).text).toBe('aaaa');
});
