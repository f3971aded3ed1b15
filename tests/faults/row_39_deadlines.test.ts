/** Row 39: a deadline passes in the queue, or while the request runs. */

import { expect, test } from 'vitest';
import { DeadlineError } from '../../bridge/dist/index.js';
import {
  engineIsIdle,
  failure,
  startFake,
  startFaulty,
  temporaryFolder,
  writeChain,
} from './support.js';

test('each says where it passed, and a queued one never runs', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel(writeChain(temporaryFolder()));
  const blocker = runtime.call('fault_block_engine', { seconds: 1 });
  const queued = await failure(model.generate({ prompt: 'a', deadlineMs: 60 }));
  expect(queued).toBeInstanceOf(DeadlineError);
  expect(queued).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'queue' });
  expect(queued.partial?.completionTokens).toBe(0);
  await blocker;
  const running = await failure(
    model.generate({ prompt: 'a', maxTokens: 100_000, deadlineMs: 800 }),
  );
  expect(running).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'decode' });
  expect(running.partial?.completionTokens).toBeGreaterThan(0);
  const other = await failure(runtime.call('fault_sleep', { seconds: 600 }, { deadlineMs: 50 }));
  expect(other).toMatchObject({ code: 'DEADLINE_EXCEEDED', phase: 'running' });
  await engineIsIdle(runtime);
  expect((await runtime.ping()).inFlight).toBe(0);
});

test('a runtime that does not answer cannot hold a deadline back', async () => {
  const runtime = await startFake('silent');
  const bystander = runtime.echo('bystander');
  const error = await failure(runtime.echo(1, { deadlineMs: 50 }));
  expect(error).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  expect(await runtime.call('release')).toBeNull();
  expect(await bystander).toBe('bystander');
});
