/** Row 52: nothing is left behind by 200 runtimes and 10,000 requests. */

import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { createRuntime } from '../../bridge/dist/index.js';
import {
  ENVIRONMENT,
  failure,
  fakeCommand,
  faultyCommand,
  isAlive,
  kill,
  waitUntil,
} from './support.js';

const MIB = 1 << 20;
const AT_ONCE = 4;

interface Footprint {
  readonly descriptors: number;
  readonly handles: string[];
  readonly zombies: number;
  readonly listeners: number;
  readonly heap: number;
}

function footprint(): Footprint {
  global.gc?.();
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    handles: process
      .getActiveResourcesInfo()
      .filter((name) => name !== 'Immediate')
      .sort(),
    zombies: children().filter((pid) => !isAlive(pid)).length,
    listeners: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0),
    heap: process.memoryUsage().heapUsed,
  };
}

/** The footprint once it is no larger than it was: Node closes handles a turn later. */
async function footprintLike(before: Footprint): Promise<Footprint> {
  const isBack = ({ handles, descriptors }: Footprint): boolean =>
    handles.length <= before.handles.length && descriptors <= before.descriptors;
  await waitUntil(() => isBack(footprint()), 'handles and descriptors are back').catch(() => 0);
  return footprint();
}

/** Not more than before, and when it is more, of which kind. */
function expectNoMore(after: Footprint, before: Footprint): void {
  if (after.handles.length > before.handles.length) expect(after.handles).toEqual(before.handles);
  expect(after.descriptors).toBeLessThanOrEqual(before.descriptors);
  expect(after.listeners).toBeLessThanOrEqual(before.listeners);
  expect(after.heap - before.heap).toBeLessThan(8 * MIB);
}

function children(): number[] {
  const text = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}

const ENDINGS: Record<string, (command: [string, ...string[]], round: number) => Promise<void>> = {
  async closed(command) {
    const runtime = await createRuntime({ command, env: ENVIRONMENT });
    const calls = Array.from({ length: 50 }, (_, index) => runtime.echo(index));
    await Promise.all(calls);
    await runtime.close();
  },
  async killed(command) {
    const runtime = await createRuntime({ command, env: ENVIRONMENT, restart: false });
    const pending = failure(runtime.call('echo', { data: 'x'.repeat(1_000_000) }));
    kill(runtime.hello.pid);
    await pending;
    await runtime.closed;
  },
};

async function run(command: [string, ...string[]], rounds: number): Promise<void> {
  const names = Object.keys(ENDINGS);
  for (let round = 0; round < rounds; round += AT_ONCE) {
    const batch = Array.from({ length: AT_ONCE }, (_, index) => {
      // Every eighth is killed; one that dies early may have answered, which is fine.
      const name = (round + index) % 8 === 7 ? names[1] : names[0];
      return ENDINGS[name as string]?.(command, round + index);
    });
    await Promise.all(batch);
  }
}

test('descriptors, handles, zombies, listeners and the heap are back where they were', async () => {
  const silent = fakeCommand('silent');
  await run(fakeCommand('echo'), AT_ONCE);
  const before = footprint();
  for (let round = 0; round < 48; round++) {
    await run(fakeCommand('echo'), AT_ONCE);
    if (round % 8 === 0) await ENDINGS.killed?.(silent, round);
  }
  await run(faultyCommand(), AT_ONCE);
  const after = await footprintLike(before);
  expectNoMore(after, before);
  expect(after.zombies).toBe(0);
  expect(children().filter(isAlive)).toEqual([]);
}, 60_000);

test('10,000 requests of every kind leave no listener on a shared signal and no memory', async () => {
  const runtime = await createRuntime({ command: faultyCommand(), env: ENVIRONMENT });
  const { signal } = new AbortController();
  const work = async (count: number): Promise<void> => {
    for (let done = 0; done < count; done += 500) {
      const calls = Array.from({ length: 500 }, (_, index) =>
        index % 5 === 0
          ? runtime.call('no_such_method').catch(() => undefined)
          : runtime.echo({ index }, { signal, deadlineMs: 60_000 }),
      );
      await Promise.all(calls);
    }
  };
  await work(1_000);
  const before = footprint();
  const residentBefore = (await runtime.ping()).rssBytes;
  await work(10_000);
  expectNoMore(await footprintLike(before), before);
  expect((await runtime.ping()).rssBytes - residentBefore).toBeLessThan(64 * MIB);
  expect(runtime.counters).toEqual({ droppedReplies: 0, unknownEvents: 0, queuedBytes: 0 });
  await runtime.close();
});

test('200 restarts of one runtime leave nothing behind', async () => {
  const options = { command: fakeCommand('echo'), env: ENVIRONMENT };
  const restart = { limit: 1_000, backoffMs: 0 };
  const runtime = await createRuntime({ ...options, restart });
  const { signal } = new AbortController();
  const again = async (count: number): Promise<void> => {
    for (let round = 0; round < count; round++) {
      const { pid } = runtime.hello;
      kill(pid);
      await waitUntil(() => runtime.state !== 'running' || runtime.hello.pid !== pid, 'the end');
      const calls = [1, 2, 3].map((data) => runtime.echo(data, { signal, deadlineMs: 20_000 }));
      expect(await Promise.all(calls)).toEqual([1, 2, 3]);
    }
  };
  await again(5);
  const before = footprint();
  await again(200);
  const after = await footprintLike(before);
  expectNoMore(after, before);
  expect(after.zombies).toBe(0);
  expect(children().filter(isAlive)).toEqual([runtime.hello.pid]);
  expect(runtime.counters).toEqual({ droppedReplies: 0, unknownEvents: 0, queuedBytes: 0 });
  await runtime.close();
  expect(children().filter(isAlive)).toEqual([]);
}, 60_000);
