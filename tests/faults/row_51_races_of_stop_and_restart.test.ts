/** Row 51: closing and restarting at every moment: one process at most, and all of it idempotent. */

import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import type { Runtime } from '../../bridge/dist/index.js';
import {
  ENVIRONMENT,
  failure,
  fakeCommand,
  isAlive,
  kill,
  startFake,
  temporaryFolder,
  waitUntil,
} from './support.js';

interface Watched {
  readonly runtime: Runtime;
  /** What the children noted. */
  notes(): string[];
}

async function watched(backoffMs: number, scenario = 'counted'): Promise<Watched> {
  const file = join(temporaryFolder(), 'starts');
  const restart = { backoffMs, limit: 1_000 };
  const runtime = await startFake(scenario, file, { restart });
  return {
    runtime,
    notes: () => (existsSync(file) ? readFileSync(file, 'utf8').split(' ') : []),
  };
}

function expectNoneLeft({ notes }: Watched): void {
  expect(notes()).not.toContain('overlap');
  expect(notes().map(Number).filter(isAlive)).toEqual([]);
}

async function dead(runtime: Runtime): Promise<void> {
  kill(runtime.hello.pid);
  await waitUntil(() => runtime.state !== 'running', 'the end is noticed');
}

test('closed while it waits to restart: nothing is started, and what waits is told', async () => {
  const all = await watched(1_000_000);
  await dead(all.runtime);
  const waiting = [failure(all.runtime.echo(1)), failure(all.runtime.call('load_model'))];
  const reports = await Promise.all([all.runtime.close(), all.runtime.close()]);
  for (const error of await Promise.all(waiting)) expect(error.code).toBe('CLOSING');
  expect(reports[0]).toMatchObject({ signal: 'SIGKILL' });
  expect(reports[1]).toEqual(reports[0]);
  expect((await failure(all.runtime.echo(2))).code).toBe('CLOSING');
  expect((await failure(all.runtime.restart())).code).toBe('CLOSING');
  expect(await all.runtime.closed).toEqual(reports[0]);
  expect(all.notes()).toHaveLength(1);
  expectNoneLeft(all);
});

test('closed while the next process starts: that one is ended too', async () => {
  const all = await watched(0, 'slow-start');
  await dead(all.runtime);
  const waiting = failure(all.runtime.echo(1));
  await waitUntil(() => all.notes().length === 2, 'the next process has begun');
  await all.runtime.close();
  expect((await waiting).code).toBe('CLOSING');
  expect(all.runtime.state).toBe('closed');
  expectNoneLeft(all);
});

test('restarted by hand while it waits to restart: it waits no longer', async () => {
  const all = await watched(1_000_000);
  await dead(all.runtime);
  const waiting = all.runtime.echo('waited');
  await Promise.all([all.runtime.restart(), all.runtime.restart()]);
  expect(await waiting).toBe('waited');
  expect(all.notes()).toHaveLength(2);
  await all.runtime.close();
  expectNoneLeft(all);
});

test('restarted many times at once: one new process', async () => {
  const all = await watched(0);
  await Promise.all(Array.from({ length: 20 }, () => all.runtime.restart()));
  expect(await all.runtime.echo(1)).toBe(1);
  expect(all.notes()).toHaveLength(2);
  await all.runtime.close();
  expectNoneLeft(all);
});

test('closed while a restart is under way: the restart says so', async () => {
  const all = await watched(0);
  const restarted = failure(all.runtime.restart());
  await all.runtime.close();
  expect((await restarted).code).toBe('CLOSING');
  expectNoneLeft(all);
});

test('killed, restarted and closed in any order: no two at once, and none is left', async () => {
  for (let round = 0; round < 12; round++) {
    const all = await watched(0);
    const steps = [
      () => kill(all.runtime.hello.pid),
      () => void all.runtime.restart().catch(() => undefined),
      () => new Promise<void>((resolve) => setImmediate(resolve)),
      () => all.runtime.echo(round).catch(() => undefined),
    ];
    for (let step = 0; step < 8; step++) {
      const act = steps[(round * 5 + step * (round + 3)) % steps.length];
      if (step % 3 === 0) void act?.();
      else await act?.();
    }
    await all.runtime.close();
    expectNoneLeft(all);
  }
});

test('a runtime that is told to go by somebody else drains, and is replaced', async () => {
  const all = await watched(0);
  const calls = Array.from({ length: 10 }, (_, index) => all.runtime.echo(index));
  kill(all.runtime.hello.pid, 'SIGTERM');
  expect(await Promise.all(calls)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(await all.runtime.echo('again')).toBe('again');
});

const FORGETFUL = `
  const { createRuntime } = await import(process.argv[1]);
  const [, , command, env, backoffMs, isPending] = process.argv.map((text, index) =>
    index > 1 ? JSON.parse(text) : text);
  const runtime = await createRuntime({
    command, env, restart: { backoffMs, maxBackoffMs: backoffMs },
    onState: ({ to }) => to === 'restarting' && console.log(to),
  });
  if (isPending) setTimeout(() => runtime.echo('kept').then(console.log), 20);
  process.kill(runtime.hello.pid, 'SIGKILL');
  if (!isPending) await new Promise((resolve) => setTimeout(resolve, 50));
`;

/** What a host prints that does not close its runtime, whose process is killed. */
async function forgetful(scenario: string, backoffMs: number, isPending: boolean) {
  const file = join(temporaryFolder(), 'starts');
  const command = fakeCommand(scenario, file);
  const index = new URL('../../bridge/dist/index.js', import.meta.url).href;
  const values = [command, ENVIRONMENT, backoffMs, isPending].map((value) => JSON.stringify(value));
  const options = ['--input-type=module', '-e', FORGETFUL, index, ...values];
  const { stdout } = await promisify(execFile)(process.execPath, options, { timeout: 15_000 });
  const pids = readFileSync(file, 'utf8').split(' ').map(Number);
  await waitUntil(() => !pids.some(isAlive), 'no child is left');
  return stdout.trim().split('\n');
}

test('a host with nothing to do ends by itself while the runtime waits to restart', async () => {
  expect(await forgetful('counted', 1_000_000, false)).toEqual(['restarting']);
});

test('a host with nothing to do ends by itself while the runtime starts, and leaves no orphan', async () => {
  expect(await forgetful('slow-start', 0, false)).toEqual(['restarting']);
});

test('a host that waits for an answer lives until it has come', async () => {
  expect(await forgetful('counted', 300, true)).toEqual(['restarting', 'kept']);
});
