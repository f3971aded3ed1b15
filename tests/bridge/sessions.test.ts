import { describe, expect, test } from 'vitest';
import { makeError } from '../../bridge/src/errors.js';
import { load } from '../../bridge/src/loading.js';
import { Model } from '../../bridge/src/model.js';
import { modelInfo } from '../../bridge/src/model-info.js';
import type { Session } from '../../bridge/src/session.js';
import { type OpenSessionOptions, Sessions } from '../../bridge/src/sessions.js';
import type { WireMap } from '../../bridge/src/wire/decoder.js';
import { FakeRuntime, failure, type Message } from './support.js';

const INFO = {
  id: 'chat',
  state: 'hot',
  tokens: 40,
  saved_tokens: 32,
  memory_bytes: 1_000,
  disk_bytes: 900,
  kv: 'q8',
  pin: true,
  busy: false,
  used_at: 1_700_000_000.5,
};
const READ = {
  id: 'chat',
  state: 'hot',
  tokens: 40,
  savedTokens: 32,
  memoryBytes: 1_000,
  diskBytes: 900,
  kv: 'q8',
  pin: true,
  busy: false,
  usedAt: 1_700_000_000.5,
};
const OPTIONS = { kv: 'q8', pin: true, tenant: 'alice', whenBusy: 'fail' } as const;
const WHOLE = { id: 'chat', kv: 'q8', pin: true, tenant: 'alice', when_busy: 'fail' };
const NAME = { id: 'chat', tenant: 'alice', when_busy: 'fail' };

function setUp() {
  const runtime = new FakeRuntime();
  const sessions = new Sessions(runtime.connection);
  const model = new Model(runtime.connection, modelInfo({ model: 'm1' }), 256);
  /** Make the call, check what was sent, and answer it. */
  const exchange = async <T>(call: Promise<T>, method: string, params: object, value: unknown) => {
    const [message] = await runtime.received();
    expect(message?.slice(2)).toEqual([method, params]);
    runtime.send([2, message?.[1], value]);
    return await call;
  };
  const open = (options: object = OPTIONS, session: object = WHOLE): Promise<Session> =>
    exchange(
      sessions.open('chat', { model, ...options }),
      'open_session',
      { model: 'm1', session },
      INFO,
    );
  /** The params of the one request that was sent. */
  const sent = async (): Promise<unknown> => {
    const messages = await runtime.received();
    expect(messages).toHaveLength(1);
    return messages[0]?.[3];
  };
  return { runtime, sessions, model, exchange, open, sent };
}

describe('the sessions of a runtime', () => {
  test('are opened for a model, and say how they are in the names of the API', async () => {
    const { open, model } = setUp();
    const session = await open();
    expect([session.id, session.model]).toEqual(['chat', model]);
    expect(session.info).toEqual(READ);
    expect(Object.isFrozen(session.info)).toBe(true);
  });

  test('are opened with nothing but a name when no more is said', async () => {
    const { open } = setUp();
    await open({ kv: undefined }, { id: 'chat' });
  });

  test('are not opened for a model of another runtime, or for none', async () => {
    const { sessions, runtime } = setUp();
    for (const model of [setUp().model, 'm1', undefined]) {
      const options = { model } as OpenSessionOptions;
      expect(await failure(sessions.open('chat', options))).toMatchObject({
        name: 'InvalidRequestError',
        details: { field: 'model' },
      });
    }
    expect(await runtime.received()).toEqual([]);
  });

  test('are listed, those of a tenant or of none', async () => {
    const { sessions, exchange } = setUp();
    expect(await exchange(sessions.list(), 'list_sessions', {}, { sessions: [INFO] })).toEqual([
      READ,
    ]);
    const call = sessions.list({ tenant: 'alice' });
    expect(await exchange(call, 'list_sessions', { tenant: 'alice' }, { sessions: [] })).toEqual(
      [],
    );
  });

  test('are deleted by name, whether or not there was one', async () => {
    const { sessions, exchange } = setUp();
    const one = sessions.delete('chat', { tenant: 'alice' });
    const named = { session: { id: 'chat', tenant: 'alice' } };
    expect(await exchange(one, 'delete_session', named, { deleted: true })).toBe(true);
    const none = sessions.delete('chat');
    const params = { session: { id: 'chat' } };
    expect(await exchange(none, 'delete_session', params, { deleted: false })).toBe(false);
  });

  test('are counted in the names of the API', async () => {
    const { sessions, exchange } = setUp();
    const counters = { directory: null, mode: 'memory', hot_bytes: 7, dropped_saves: 1 };
    expect(await exchange(sessions.stats(), 'session_stats', {}, counters)).toEqual({
      ...{ directory: null, mode: 'memory' },
      ...{ hotBytes: 7, droppedSaves: 1 },
    });
  });

  test('take a signal and a deadline, which are no params', async () => {
    const { sessions, model, runtime } = setUp();
    const controller = new AbortController();
    const options = { signal: controller.signal, deadlineMs: 9_000 };
    const calls = [
      sessions.open('chat', { model, ...options }),
      sessions.list(options),
      sessions.delete('chat', options),
      sessions.stats(options),
    ].map((call) => failure(call));
    const messages = await runtime.received();
    expect(messages.map((message) => message.slice(2))).toEqual([
      ['open_session', { model: 'm1', session: { id: 'chat' } }, { deadline_ms: 9_000 }],
      ['list_sessions', {}, { deadline_ms: 9_000 }],
      ['delete_session', { session: { id: 'chat' } }, { deadline_ms: 9_000 }],
      ['session_stats', {}, { deadline_ms: 9_000 }],
    ]);
    controller.abort();
    for (const error of await Promise.all(calls)) expect(error.name).toBe('AbortError');
  });

  test('answered in another shape are the fault of the runtime', async () => {
    const { sessions, model, runtime } = setUp();
    const calls = [
      sessions.open('chat', { model }),
      sessions.list(),
      sessions.delete('chat'),
      sessions.stats(),
    ].map((call) => failure(call));
    const values = [{ state: 'hot' }, { sessions: null }, null, []];
    for (const [index, [, id]] of (await runtime.received()).entries()) {
      runtime.send([2, id, values[index]]);
    }
    for (const error of await Promise.all(calls)) {
      expect(error.code).toBe('REMOTE_PROTOCOL_ERROR');
    }
  });
});

describe('a session', () => {
  test('sends all of its options with every generation, and those of the request', async () => {
    const { open, sent } = setUp();
    const session = await open();
    for (const maxTokens of [1, 2]) {
      session.generate({ prompt: 'hi', maxTokens });
      expect(await sent()).toEqual({
        ...{ model: 'm1', prompt: 'hi', max_tokens: maxTokens },
        session: WHOLE,
      });
    }
  });

  test('keeps the options that it was opened with, whatever becomes of the object', async () => {
    const { sessions, model, exchange, sent } = setUp();
    const options = { model, tenant: 'alice' };
    const opening = sessions.open('chat', options);
    options.tenant = 'bob';
    const named = { id: 'chat', tenant: 'alice' };
    const session = await exchange(opening, 'open_session', { model: 'm1', session: named }, INFO);
    session.generate({ prompt: 'hi' });
    expect(await sent()).toMatchObject({ session: named });
  });

  test('generates as its model does: deltas, a result, and what was reused', async () => {
    const { open, runtime } = setUp();
    const generation = (await open()).generate({ prompt: 'hi' });
    const [message] = (await runtime.received()) as [Message];
    const cache = {
      ...{ state: 'warm', reused_tokens: 32, prefilled_tokens: 8 },
      ...{ load_ms: 1.5, prefill_ms: 2 },
    };
    const delta = { text: 'ab', ids: Uint32Array.of(1) };
    runtime.send([4, message[1], 1, delta], [5, message[1], { finish_reason: 'stop', cache }]);
    const texts: string[] = [];
    for await (const { text } of generation) texts.push(text);
    expect(texts).toEqual(['ab']);
    expect(await generation).toMatchObject({
      text: 'ab',
      cache: {
        ...{ state: 'warm', reusedTokens: 32, prefilledTokens: 8 },
        ...{ loadMs: 1.5, prefillMs: 2 },
      },
    });
  });

  test('of a runtime that is closed fails as a generation does', async () => {
    const { open, runtime } = setUp();
    const session = await open();
    runtime.connection.refuse(() => makeError('CLOSING', 'it is closed'));
    const error = await failure(session.generate({ prompt: 'hi' }));
    expect(error).toMatchObject({ code: 'CLOSING', partial: { completionTokens: 0 } });
  });

  test('is saved, or says why not', async () => {
    const { open, exchange } = setUp();
    const session = await open();
    const value = { saved: false, tokens: 40, written_bytes: 0, reason: 'The disk is full.' };
    expect(await exchange(session.save(), 'save_session', { session: NAME }, value)).toEqual({
      ...{ saved: false, tokens: 40, writtenBytes: 0, reason: 'The disk is full.' },
    });
  });

  test('is evicted from memory', async () => {
    const { open, exchange } = setUp();
    const session = await open();
    const value = { evicted: true, freed_bytes: 512 };
    expect(await exchange(session.evict(), 'evict_session', { session: NAME }, value)).toEqual({
      ...{ evicted: true, freedBytes: 512 },
    });
  });

  test('is forked into one that has its model, tenant and options, and is usable', async () => {
    const { open, exchange, model, sent } = setUp();
    const session = await open();
    const call = session.fork('other');
    const params = { session: NAME, to: 'other' };
    const forked = await exchange(call, 'fork_session', params, { ...INFO, id: 'other' });
    expect([forked.id, forked.info.id, forked.model]).toEqual(['other', 'other', model]);
    expect([session.id, session.info.id]).toEqual(['chat', 'chat']);
    forked.generate({ prompt: 'hi' });
    expect(await sent()).toMatchObject({ session: { ...WHOLE, id: 'other' } });
    const saving = forked.save();
    const named = { session: { ...NAME, id: 'other' } };
    await exchange(saving, 'save_session', named, { saved: true });
  });

  test('is truncated, and then says what is left', async () => {
    const { open, exchange } = setUp();
    const session = await open();
    const params = { session: NAME, tokens: 8 };
    const call = session.truncate(8);
    const info = await exchange(call, 'truncate_session', params, { ...INFO, tokens: 8 });
    expect(info).toEqual({ ...READ, tokens: 8 });
    expect(session.info).toBe(info);
  });

  test('is refreshed by opening it again', async () => {
    const { open, exchange } = setUp();
    const session = await open();
    const params = { model: 'm1', session: WHOLE };
    const call = session.refresh();
    const info = await exchange(call, 'open_session', params, { ...INFO, state: 'warm' });
    expect([info.state, session.info]).toEqual(['warm', info]);
  });

  test.each([true, false])('is deleted, and says whether there was one: %s', async (deleted) => {
    const { open, exchange } = setUp();
    const session = await open();
    const call = session.delete();
    expect(await exchange(call, 'delete_session', { session: NAME }, { deleted })).toBe(deleted);
  });

  test('takes a signal and a deadline in every call', async () => {
    const { open, runtime } = setUp();
    const session = await open();
    const controller = new AbortController();
    const options = { signal: controller.signal, deadlineMs: 9_000 };
    const calls = [
      session.save(options),
      session.evict(options),
      session.fork('other', options),
      session.truncate(0, options),
      session.delete(options),
      session.refresh(options),
    ].map((call) => failure(call));
    for (const [, , , params, sentOptions] of await runtime.received()) {
      expect(sentOptions).toEqual({ deadline_ms: 9_000 });
      expect(params).not.toHaveProperty('deadline_ms');
    }
    controller.abort();
    for (const error of await Promise.all(calls)) expect(error.name).toBe('AbortError');
  });
});

describe('a call that is refused', () => {
  test('because the session is busy may be made again', async () => {
    const { open, runtime } = setUp();
    const generation = failure((await open()).generate({ prompt: 'hi' }));
    const [message] = await runtime.received();
    runtime.send([3, message?.[1], { code: 'SESSION_BUSY', message: 'busy' }]);
    expect(await generation).toMatchObject({ code: 'SESSION_BUSY', retryable: true });
  });

  test('for the id of the session is no failed load of a model', async () => {
    const { sessions, model, runtime } = setUp();
    const opening = failure(sessions.open('../up', { model }));
    const [message] = await runtime.received();
    const details = { field: 'session.id' };
    runtime.send([3, message?.[1], { code: 'PATH_REFUSED', message: 'odd id', details }]);
    expect(await opening).toMatchObject({ name: 'IsthmusError', code: 'PATH_REFUSED', details });
  });
});

describe('when the process ends, a session', () => {
  const methods = (messages: Message[]) => messages.map(([, , method]) => method);

  /** A session in a process that ended, and the next process. */
  async function restarted(limits: WireMap = {}) {
    const runtime = new FakeRuntime({ limits });
    const loading = load(runtime.connection, 'source', {}, 256);
    runtime.send([2, (await runtime.received())[0]?.[1], { model: 'm1' }]);
    const model = await loading;
    const opening = new Sessions(runtime.connection).open('chat', { model, ...OPTIONS });
    runtime.send([2, (await runtime.received())[0]?.[1], INFO]);
    const session = await opening;
    runtime.die();
    runtime.revive();
    return { runtime, session };
  }

  const restore = ['load_model', { source: 'source', handle: 'm1', references: 1 }];

  test.each(['generate', 'refresh'] as const)(
    'that is used by %s has its model loaded again, and needs no new open',
    async (name) => {
      const { runtime, session } = await restarted();
      void (name === 'generate' ? session.generate({ prompt: 'hi' }) : session.refresh());
      const [loading, ...none] = await runtime.received();
      expect(loading?.slice(2)).toMatchObject(restore);
      expect(none).toEqual([]);
      runtime.send([2, loading?.[1], { model: 'm1' }]);
      const [message] = await runtime.received();
      const method = name === 'generate' ? 'generate' : 'open_session';
      expect(message?.slice(2, 4)).toMatchObject([method, { model: 'm1', session: WHOLE }]);
    },
  );

  test('that is only named asks for no model', async () => {
    const { runtime, session } = await restarted();
    const calls = [
      session.save(),
      session.evict(),
      session.fork('m1'),
      session.truncate(0),
      session.delete(),
    ];
    const messages = await runtime.received();
    expect(methods(messages)).toEqual([
      'save_session',
      'evict_session',
      'fork_session',
      'truncate_session',
      'delete_session',
    ]);
    for (const [, id] of messages) runtime.send([2, id, INFO]);
    await Promise.all(calls);
  });

  test.each([256, 1])('keeps the order of its calls, with room for %s', async (inFlight) => {
    const { runtime, session } = await restarted({ in_flight: inFlight });
    const generation = session.generate({ prompt: 'hi' });
    const calls = [session.truncate(8), session.delete()];
    const [loading, ...none] = await runtime.received();
    expect([loading?.[2], none]).toEqual(['load_model', []]);
    runtime.send([2, loading?.[1], { model: 'm1' }]);
    const order: unknown[] = [];
    for (let messages = await runtime.received(); messages.length > 0; ) {
      order.push(...methods(messages));
      runtime.send(
        ...messages.map(([, id, method]) =>
          method === 'generate' ? [5, id, { finish_reason: 'stop' }] : [2, id, INFO],
        ),
      );
      messages = await runtime.received();
    }
    expect(order).toEqual(['generate', 'truncate_session', 'delete_session']);
    await Promise.all([generation, ...calls]);
  });

  test('lets others overtake: of another name, of another tenant, of no session', async () => {
    const { runtime, session } = await restarted();
    const sessions = new Sessions(runtime.connection);
    session.generate({ prompt: 'hi' });
    void sessions.delete('chat');
    void sessions.delete('other', { tenant: 'alice' });
    void sessions.stats();
    expect(methods(await runtime.received())).toEqual([
      ...['load_model', 'delete_session', 'delete_session', 'session_stats'],
    ]);
  });

  test('whose model cannot be loaded again goes on with the calls behind', async () => {
    const { runtime, session } = await restarted();
    const generation = failure(session.generate({ prompt: 'hi' }));
    const deleting = session.delete();
    const [loading] = await runtime.received();
    runtime.send([3, loading?.[1], { code: 'MEMORY_LIMIT', message: 'no' }]);
    expect((await generation).code).toBe('MEMORY_LIMIT');
    const [message] = await runtime.received();
    expect(message?.[2]).toBe('delete_session');
    runtime.send([2, message?.[1], { deleted: true }]);
    expect(await deleting).toBe(true);
  });

  test('whose generation was not yet written keeps its order, too', async () => {
    const { runtime, session } = await restarted({ in_flight: 1 });
    const waiting = runtime.connection.call('echo', {}, (value) => value);
    const generation = session.generate({ prompt: 'hi' });
    const deleting = session.delete();
    runtime.send([2, (await runtime.received())[0]?.[1], null]);
    await waiting;
    const [loading, ...none] = await runtime.received();
    expect([loading?.[2], none]).toEqual(['load_model', []]);
    runtime.send([2, loading?.[1], { model: 'm1' }]);
    const [message, ...more] = await runtime.received();
    expect([message?.[2], more]).toEqual(['generate', []]);
    runtime.send([5, message?.[1], { finish_reason: 'stop' }]);
    await generation;
    const [last] = await runtime.received();
    runtime.send([2, last?.[1], { deleted: true }]);
    expect([last?.[2], await deleting]).toEqual(['delete_session', true]);
  });

  test('that was being generated from, and had no token yet, goes on in the next one', async () => {
    const { open, runtime } = setUp();
    const generation = (await open()).generate({ prompt: 'hi' });
    await runtime.received();
    runtime.die();
    runtime.revive();
    const [message] = await runtime.received();
    expect(message?.slice(2, 4)).toMatchObject(['generate', { session: WHOLE }]);
    runtime.send([5, message?.[1], { finish_reason: 'stop' }]);
    expect((await generation).finishReason).toBe('stop');
  });

  test('that was being forked, truncated or deleted is not asked again', async () => {
    const { open, runtime } = setUp();
    const session = await open();
    const calls = [session.fork('other'), session.truncate(8), session.delete()].map(failure);
    await runtime.received();
    runtime.die();
    runtime.revive();
    for (const error of await Promise.all(calls)) expect(error.code).toBe('RUNTIME_EXITED');
    expect(await runtime.received()).toEqual([]);
  });
});
