/** Row 49: a runtime that ends at once, each time: it is given up instead of started for ever. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { StateChange } from '../../bridge/dist/index.js';
import { failure, kill, startFake, temporaryFolder, waitUntil } from './support.js';

const QUICK = { backoffMs: 1 };

const starts = (file: string): string[] => readFileSync(file, 'utf8').split(' ');

test.each(['good-once', 'hello-and-exit'])(
  '%s: three restarts, then a report; a hello alone resets nothing',
  async (scenario) => {
    const file = join(temporaryFolder(), 'starts');
    const changes: StateChange[] = [];
    const runtime = await startFake(scenario, file, {
      restart: QUICK,
      onState: (change) => changes.push(change),
    });
    expect(await runtime.echo(1)).toBe(1);
    kill(runtime.hello.pid);
    await waitUntil(() => runtime.state === 'restarting', 'the end is noticed');
    const waiting = failure(runtime.call('load_model', { source: 'x' }));
    expect((await waiting).code).toMatch(scenario === 'good-once' ? /_FAILED/ : /_EXITED/);
    await waitUntil(() => runtime.state === 'failed', 'it is given up');
    const error = await failure(runtime.echo(2));
    expect(error).toMatchObject({ code: 'RUNTIME_FAILED', retryable: false });
    expect(error.message).toMatch(/ended 4 times within .* s and is not started again/);
    expect(error.message).toContain('1. it was ended by SIGKILL');
    expect(error.message).toContain('4. it exited with code 1');
    expect(error.message).toContain('the reason stands here');
    expect(error.message).toContain('isthmus-doctor');
    expect(error.message).toContain('runtime.restart()');
    expect((error.details.ends as unknown[]).length).toBe(4);
    expect(starts(file)).toHaveLength(4);
    const later = await failure(runtime.echo(2));
    expect(later).toMatchObject({ code: 'RUNTIME_FAILED' });
    expect(later).not.toBe(error);
    expect(runtime.state).toBe('failed');
    expect(changes.at(-1)).toMatchObject({ from: 'restarting', to: 'failed', error: {} });
    const health = await runtime.health();
    expect(health).toMatchObject({ state: 'failed', isReady: false, restarts: 3, runtime: null });
    expect(health.lastExit?.exitCode).toBe(1);
    expect(health.reason).toContain('not started again');
  },
);

test('given up, it can be told to try again, with a new count', async () => {
  const file = join(temporaryFolder(), 'starts');
  const runtime = await startFake('good-once', file, { restart: QUICK });
  kill(runtime.hello.pid);
  await waitUntil(() => runtime.state === 'failed', 'it is given up');
  expect(await failure(runtime.restart())).toMatchObject({ code: 'RUNTIME_FAILED' });
  expect(starts(file)).toHaveLength(4 + 4);
});

test('a limit of none gives up at the first end', async () => {
  const runtime = await startFake('counted', join(temporaryFolder(), 'starts'), {
    restart: { limit: 0 },
  });
  kill(runtime.hello.pid);
  await waitUntil(() => runtime.state === 'failed', 'it is given up');
  const error = await failure(runtime.echo(1));
  expect(error.message).toContain('ended once');
  expect(error.message).toContain('perhaps it ran out of memory');
  await runtime.restart();
  expect(await runtime.echo(2)).toBe(2);
});

test('one that works again answers what waited, and the host hears of each step', async () => {
  const changes: StateChange[] = [];
  const file = join(temporaryFolder(), 'starts');
  const runtime = await startFake('counted', file, {
    restart: QUICK,
    onState: (change) => changes.push(change),
  });
  kill(runtime.hello.pid);
  await waitUntil(() => runtime.state !== 'running', 'the end is noticed');
  expect(await runtime.echo('waited')).toBe('waited');
  expect(changes.map(({ from, to, attempt }) => [from, to, attempt])).toEqual([
    ['starting', 'running', 0],
    ['running', 'restarting', 1],
    ['restarting', 'running', 1],
  ]);
  expect(changes[1]?.reason).toContain('SIGKILL');
  expect(changes[1]?.error).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL' });
  expect(changes[1]?.delayMs).toBeLessThanOrEqual(1);
});
