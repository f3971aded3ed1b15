import { describe, expect, test } from 'vitest';
import type { LoadProgress } from '../../bridge/src/loading.js';
import type { Supervisor } from '../../bridge/src/process/supervisor.js';
import { Runtime } from '../../bridge/src/runtime.js';
import { settingsOf } from '../../bridge/src/settings.js';
import type { WireMap } from '../../bridge/src/wire/decoder.js';
import { FakeRuntime, failure, turn } from './support.js';

/** A runtime whose process is this test. */
function setUp(hello: WireMap = {}) {
  const peer = new FakeRuntime();
  const counters = { state: 'running', restarts: 0 };
  const supervisor = { connection: peer.connection, hello, counters } as unknown as Supervisor;
  return { peer, supervisor, runtime: new Runtime(supervisor, settingsOf({ credit: 4 })) };
}

describe('the runtime', () => {
  test('shows the hello in the names of the API', () => {
    const hello = { protocol: 1, limits: { in_flight: 7 }, blas: { name: 'x', path: null } };
    expect(setUp(hello).runtime.hello).toEqual({
      protocol: 1,
      limits: { inFlight: 7 },
      blas: { name: 'x', path: null },
    });
  });

  test('loads a model, shows each step, and gives a handle', async () => {
    const { peer, runtime } = setUp();
    const steps: LoadProgress[] = [];
    const loading = runtime.loadModel('org/name', {
      adapterPath: '/a',
      localFilesOnly: true,
      onProgress: (step) => steps.push(step),
    });
    expect(await peer.received()).toEqual([
      [1, 0, 'load_model', { source: 'org/name', adapter_path: '/a', local_files_only: true }],
    ]);
    const step = { stage: 'load', done: 1, total: 2, unit: 'bytes' };
    peer.send([8, 'progress', { request: 0, ...step }], [2, 0, { model: 'm7', load_ms: 5 }]);
    const model = await loading;
    expect([model.handle, model.info.loadMs]).toEqual(['m7', 5]);
    expect(steps).toEqual([step]);
  });

  test('loads the default model when none is named', async () => {
    const { peer, runtime } = setUp();
    void runtime.loadModel();
    expect(await peer.received()).toEqual([[1, 0, 'load_model', { source: 'default' }]]);
  });

  test('has the sessions of its own models', async () => {
    const { peer, runtime } = setUp();
    const listing = runtime.sessions.list();
    expect(await peer.received()).toEqual([[1, 0, 'list_sessions', {}]]);
    peer.send([2, 0, { sessions: [] }]);
    expect(await listing).toEqual([]);
    expect(runtime.sessions).toBe(runtime.sessions);
  });

  test('lists models, and says how it is in two ways', async () => {
    const { peer, runtime, supervisor } = setUp();
    const health = { in_flight: 1, engine: { state: 'idle', progress_age_ms: null } };
    const expected = { inFlight: 1, engine: { state: 'idle', progressAgeMs: null } };
    const known = { state: 'running', isReady: true, reason: null, restarts: 0, silentMs: 3 };
    supervisor.health = async () => ({ ...known, lastExit: null, runtime: health }) as never;
    const all = Promise.all([runtime.listModels(), runtime.health(), runtime.ping()]);
    peer.send([2, 0, { models: [{ model: 'm1' }] }], [10, 0, health]);
    const seen = { ...known, lastExit: null, runtime: expected };
    expect(await all).toEqual([[{ model: 'm1' }], seen, expected]);
    supervisor.health = async () => ({ ...known, lastExit: null, runtime: null }) as never;
    expect((await runtime.health()).runtime).toBeNull();
  });

  test('leaves the names in counters and in echoes alone', async () => {
    const { peer, runtime } = setUp();
    const all = Promise.all([runtime.stats(), runtime.echo({ a_b: 1 }), runtime.call('x')]);
    peer.send([2, 0, { by_method: 1 }], [2, 1, { a_b: 1 }], [2, 2, { c_d: 1 }]);
    const supervision = { state: 'running', restarts: 0 };
    expect(await all).toEqual([{ by_method: 1, calls: {}, supervision }, { a_b: 1 }, { c_d: 1 }]);
  });

  test('survives what a callback of its user throws, and does not hide it', async () => {
    const { peer, runtime } = setUp();
    const uncaught: unknown[] = [];
    const listeners = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    process.on('uncaughtException', (error) => uncaught.push(error));
    const mine = new Error('mine');
    const loading = runtime.loadModel('x', {
      onProgress: () => {
        throw mine;
      },
    });
    peer.send([8, 'progress', { request: 0 }], [2, 0, { model: 'm' }]);
    await loading;
    await turn();
    process.removeAllListeners('uncaughtException');
    for (const listener of listeners) process.on('uncaughtException', listener);
    expect(uncaught).toEqual([mine]);
  });
});

describe('an echo stream', () => {
  test('gives its items one by one and grants what was taken', async () => {
    const { peer, runtime } = setUp();
    const stream = runtime.streamEcho(5, 'x');
    expect(await peer.received()).toEqual([
      [1, 0, 'stream_echo', { count: 5, data: 'x' }, { credit: 4 }],
    ]);
    peer.send([4, 0, 3, ['a', 'b', 'c']]);
    expect([await stream.next(), await stream.next()].map(({ value }) => value)).toEqual([
      'a',
      'b',
    ]);
    expect(await peer.received()).toEqual([]);
    await stream.next();
    expect(await peer.received()).toEqual([[7, 0, 3]]);
    peer.send([5, 0, { count: 5 }]);
    expect(await stream.next()).toEqual({ value: undefined, done: true });
  });

  test('that is left is cancelled once, and its late items go nowhere', async () => {
    const { peer, runtime } = setUp();
    const stream = runtime.streamEcho(1_000_000);
    peer.send([4, 0, 4, [0, 1, 2, 3]]);
    for await (const _ of stream) break;
    expect((await peer.received()).map(([kind]) => kind)).toEqual([1, 6]);
    peer.send([4, 0, 1, [4]], [3, 0, { code: 'CANCELLED', message: '' }]);
    expect(peer.connection.droppedReplies).toBe(0);
    expect(peer.broken).toEqual([]);
  });

  test('does not take a delta that miscounts', async () => {
    const { peer, runtime } = setUp();
    const next = failure(runtime.streamEcho(5).next());
    peer.send([4, 0, 3, ['a']]);
    expect((await next).code).toBe('REMOTE_PROTOCOL_ERROR');
  });

  test('that nobody reads is cancelled when it is collected', async () => {
    const { peer, runtime } = setUp();
    const use = (): void => void runtime.streamEcho(5);
    use();
    await peer.received();
    await expect
      .poll(async () => {
        global.gc?.();
        return (await peer.received()).map(([kind]) => kind);
      })
      .toEqual([6]);
  });
});

describe('settings', () => {
  test('fill in what is not given, and cannot be changed', () => {
    const settings = settingsOf({ shutdown: { termMs: 1 } });
    expect(settings).toMatchObject({
      startTimeoutMs: 15_000,
      credit: 256,
      shutdown: { graceMs: 5_000, termMs: 1, killMs: 1_000 },
    });
    expect(Object.isFrozen(settings)).toBe(true);
  });

  test.each([0, -1, 1.5, 2 ** 31, Number.NaN])('refuse a credit of %s', (credit) => {
    expect(() => settingsOf({ credit })).toThrow(/credit/);
  });

  test('fill in how often it is restarted and watched, or that it is not', () => {
    const settings = settingsOf({ restart: { limit: 1 }, heartbeat: { silenceMs: 5 } });
    expect(settings.restart).toEqual({
      ...{ limit: 1, windowMs: 60_000, healthyMs: 10_000 },
      ...{ backoffMs: 250, maxBackoffMs: 8_000 },
    });
    expect(settings.heartbeat).toEqual({ intervalMs: 1_000, silenceMs: 5, stuckMs: 120_000 });
    expect(settingsOf({ restart: false, heartbeat: false })).toMatchObject({
      restart: false,
      heartbeat: false,
    });
  });

  test.each([
    [{ restart: { limit: -1 } }, 'restart.limit'],
    [{ restart: { limits: 1 } as object }, 'restart.limits'],
    [{ heartbeat: { silenceMs: Number.NaN } }, 'heartbeat.silenceMs'],
  ])('refuse %j by name', async (options, field) => {
    expect(await failure(() => settingsOf(options))).toMatchObject({
      code: 'INVALID_REQUEST',
      details: { field },
    });
  });
});
