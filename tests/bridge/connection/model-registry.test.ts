import { describe, expect, test } from 'vitest';
import { load } from '../../../bridge/src/loading.js';
import type { Model } from '../../../bridge/src/model.js';
import { FakeRuntime, failure, KILLED, type Message, turn } from '../support.js';

const shown = (messages: Message[]) => messages.map(([, , method, params]) => [method, params]);

async function loaded(
  runtime: FakeRuntime,
  handle: string,
  options: object = {},
  source = handle,
): Promise<Model> {
  const model = load(runtime.connection, source, options, 256);
  const [message] = await runtime.received();
  runtime.send([2, message?.[1], { model: handle }]);
  return model;
}

/** A runtime whose process ended after models were loaded there, and the next process. */
async function restarted(...handles: string[]): Promise<[FakeRuntime, ...Model[]]> {
  const runtime = new FakeRuntime();
  const models: Model[] = [];
  for (const handle of handles) models.push(await loaded(runtime, handle));
  runtime.die();
  runtime.revive();
  return [runtime, ...models];
}

/** Answer each request of a kind with a value. */
function answer(runtime: FakeRuntime, messages: Message[], method: string, value: unknown): void {
  for (const [, id, name] of messages) if (name === method) runtime.send([2, id, value]);
}

const restore = (handle: string, references = 1, crashes = 0) => [
  'load_model',
  { source: handle, handle, references, prior_failures: crashes },
];

describe('after a restart a model', () => {
  test('is not loaded before it is used', async () => {
    const [runtime] = await restarted('m');
    expect(await runtime.received()).toEqual([]);
  });

  test('is loaded once, as it was, for all calls that name it, which then leave in order', async () => {
    const runtime = new FakeRuntime();
    const options = { adapterPath: '/a', pin: true, kvTokens: 64, deadlineMs: 9_000 };
    const model = await loaded(runtime, 'm', options);
    runtime.die();
    runtime.revive();
    const calls = [
      model.countTokens('a'),
      model.tokenize('b'),
      model.applyChatTemplate([]),
      runtime.connection.call('echo', { data: 1 }, Boolean),
    ];
    const sent = await runtime.received();
    const policy = { adapter_path: '/a', pin: true, kv_tokens: 64 };
    expect(shown(sent)).toContainEqual([
      'load_model',
      { source: 'm', ...policy, handle: 'm', references: 1, prior_failures: 0 },
    ]);
    expect(shown(sent).map(([method]) => method)).toEqual(['load_model', 'echo']);
    answer(runtime, sent, 'echo', 1);
    answer(runtime, sent, 'load_model', { model: 'm' });
    const rest = await runtime.received();
    expect(rest.map(([, , method]) => method)).toEqual([
      'apply_chat_template',
      'count_tokens',
      'tokenize',
    ]);
    answer(runtime, rest, 'count_tokens', { count: 1 });
    answer(runtime, rest, 'tokenize', { ids: [] });
    answer(runtime, rest, 'apply_chat_template', { text: '' });
    await Promise.all(calls);
    expect(runtime.connection.kept.restored).toBe(1);
    void model.countTokens('c');
    expect((await runtime.received()).map(([, , method]) => method)).toEqual(['count_tokens']);
  });

  test('has as many references as there are Model objects', async () => {
    const runtime = new FakeRuntime();
    await loaded(runtime, 'm');
    const model = await loaded(runtime, 'm', { idleTimeoutMs: 5 });
    await loaded(runtime, 'm', {});
    const unloading = model.unload();
    const [message] = await runtime.received();
    runtime.send([2, message?.[1], { unloaded: false, references: 2 }]);
    expect(await unloading).toMatchObject({ references: 2 });
    runtime.die();
    runtime.revive();
    void model.countTokens('a');
    const [[, params]] = shown(await runtime.received()) as [[string, object]];
    expect(params).toEqual({
      ...{ source: 'm', idle_timeout_ms: 5 },
      ...{ handle: 'm', references: 2, prior_failures: 0 },
    });
  });

  test('and its draft model are both loaded before a call that names both', async () => {
    const [runtime, target, draft] = await restarted('target', 'draft');
    const generation = (target as Model).generate({
      prompt: 'a',
      speculation: { draftModel: draft as Model },
    });
    const sent = await runtime.received();
    expect(shown(sent)).toEqual([restore('target'), restore('draft')]);
    runtime.send([2, sent[0]?.[1], { model: 'target' }]);
    expect(await runtime.received()).toEqual([]);
    runtime.send([2, sent[1]?.[1], { model: 'draft' }]);
    const [request] = await runtime.received();
    expect(request?.[2]).toBe('generate');
    runtime.send([5, request?.[1], { finish_reason: 'stop' }]);
    expect((await generation).finishReason).toBe('stop');
  });

  test('that cannot be loaded fails each call with an error of its own, and is tried again', async () => {
    const [runtime, model] = await restarted('m');
    const calls = [
      failure((model as Model).applyChatTemplate([])),
      failure((model as Model).countTokens('a')),
    ];
    const [message] = await runtime.received();
    const error = { code: 'MODEL_LOAD_FAILED', message: 'gone', details: { cause: 'missing' } };
    runtime.send([3, message?.[1], error]);
    const errors = await Promise.all(calls);
    expect(new Set(errors).size).toBe(2);
    for (const each of errors) expect(each).toMatchObject({ details: { cause: 'missing' } });
    void (model as Model).countTokens('b').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([restore('m')]);
  });

  test('whose calls were in flight is restored with how often that happened', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    const other = await loaded(runtime, 'other');
    for (let crashes = 1; crashes < 3; crashes++) {
      const failed = [
        failure(model.generate({ prompt: 'a' })),
        failure(model.generate({ prompt: 'b' })),
      ];
      await runtime.received();
      runtime.die();
      runtime.revive();
      const [load] = await runtime.received();
      expect(shown([load as Message])).toEqual([restore('m', 1, crashes)]);
      runtime.send([2, load?.[1], { model: 'm' }]);
      const generations = await runtime.received();
      expect(generations.map(([, , method]) => method)).toEqual(['generate', 'generate']);
      for (const [, id] of generations) runtime.send([3, id, { code: 'X', message: '' }]);
      await Promise.all(failed);
    }
    void other.countTokens('a').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([restore('other')]);
  });

  test('whose loading ended the process is lost, until someone loads it again', async () => {
    const [runtime, model, other] = await restarted('m', 'other');
    const first = failure((model as Model).countTokens('a'));
    await runtime.received();
    runtime.die();
    runtime.revive();
    const error = await first;
    expect(error).toMatchObject({ code: 'MODEL_LOAD_FAILED', details: { cause: 'crashed' } });
    expect(error.message).toMatch(/load a smaller model, or call loadModel/);
    expect(await failure((model as Model).countTokens('b'))).toMatchObject({
      details: { cause: 'crashed' },
    });
    expect(await runtime.received()).toEqual([]);
    void (other as Model).countTokens('a').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([restore('other')]);
    await loaded(runtime, 'm-2', {}, 'm');
    void (model as Model).countTokens('c').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([restore('m')]);
  });

  test('whose loading was cut off by a restart that was asked for is not lost', async () => {
    const [runtime, model] = await restarted('m');
    const call = (model as Model).countTokens('a');
    await runtime.received();
    runtime.die({ ...KILLED, hasCrashed: false });
    runtime.revive();
    const [load] = await runtime.received();
    expect(shown([load as Message])).toEqual([restore('m')]);
    runtime.send([2, load?.[1], { model: 'm' }]);
    const [message] = await runtime.received();
    runtime.send([2, message?.[1], { count: 7 }]);
    expect(await call).toBe(7);
  });
});

describe('unloading', () => {
  test('a model that went with its process asks nobody', async () => {
    const [runtime, model] = await restarted('m');
    expect(await (model as Model).unload()).toEqual({
      ...{ unloaded: true, references: 0, resident: false },
    });
    expect(await runtime.received()).toEqual([]);
    expect(runtime.connection.models.isFresh).toBe(true);
  });

  test('without a process asks nobody either, and forgets one reference', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    await loaded(runtime, 'm');
    runtime.die();
    expect(await model.unload()).toMatchObject({ unloaded: false, references: 1 });
    runtime.revive();
    void model.countTokens('a').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([restore('m', 1)]);
  });

  test('waits for calls that were made before it', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    runtime.die();
    const call = model.countTokens('a');
    const unloading = model.unload();
    await turn();
    runtime.revive();
    const [load] = await runtime.received();
    expect(shown([load as Message])).toEqual([restore('m')]);
    runtime.send([2, load?.[1], { model: 'm' }]);
    const rest = await runtime.received();
    expect(rest.map(([, , method]) => method)).toEqual(['count_tokens', 'unload_model']);
    answer(runtime, rest, 'count_tokens', { count: 1 });
    answer(runtime, rest, 'unload_model', { unloaded: true, references: 0, resident: true });
    expect(await call).toBe(1);
    expect(await unloading).toMatchObject({ unloaded: true, resident: true });
  });

  test('a model that is being loaded again for a call that was aborted waits for that', async () => {
    const [runtime, model] = await restarted('m');
    const controller = new AbortController();
    const call = failure((model as Model).countTokens('a', { signal: controller.signal }));
    const [load] = await runtime.received();
    controller.abort();
    await call;
    const unloading = (model as Model).unload();
    expect(await runtime.received()).toEqual([]);
    runtime.send([2, load?.[1], { model: 'm' }]);
    const rest = await runtime.received();
    expect(shown(rest)).toEqual([['unload_model', { model: 'm' }]]);
    answer(runtime, rest, 'unload_model', { unloaded: true, references: 0, resident: true });
    expect(await unloading).toMatchObject({ resident: true });
  });

  test('a model whose loading again fails is settled here', async () => {
    const [runtime, model] = await restarted('m');
    const call = failure((model as Model).countTokens('a'));
    const [load] = await runtime.received();
    const unloading = (model as Model).unload();
    await turn();
    runtime.send([3, load?.[1], { code: 'MODEL_LOAD_FAILED', message: 'gone' }]);
    expect((await call).code).toBe('MODEL_LOAD_FAILED');
    expect(await unloading).toEqual({ unloaded: true, references: 0, resident: false });
    expect(runtime.connection.models.isFresh).toBe(true);
  });

  test('that was aborted on its way is noted when it happened all the same', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    const controller = new AbortController();
    const aborted = failure(model.unload({ signal: controller.signal }));
    const [message] = await runtime.received();
    controller.abort();
    expect((await aborted).code).toBe('CANCELLED');
    runtime.send([2, message?.[1], { unloaded: true, references: 0 }]);
    runtime.die();
    runtime.revive();
    void model.countTokens('a').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([['count_tokens', { text: 'a', model: 'm' }]]);
  });

  test('a model that the runtime does not know forgets it', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    const refused = failure(model.unload());
    const [message] = await runtime.received();
    runtime.send([3, message?.[1], { code: 'MODEL_NOT_LOADED', message: 'who?' }]);
    expect((await refused).code).toBe('MODEL_NOT_LOADED');
    runtime.die();
    expect(runtime.connection.models.isFresh).toBe(true);
  });

  test('while the process ends succeeds: the reference went with it', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    const unloading = model.unload();
    await runtime.received();
    runtime.die();
    expect(await unloading).toEqual({ unloaded: true, references: 0, resident: false });
    runtime.revive();
    expect(await runtime.received()).toEqual([]);
  });

  test('that is refused gives nothing back', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    const refused = failure(model.unload());
    const [message] = await runtime.received();
    runtime.send([3, message?.[1], { code: 'UNAVAILABLE', message: 'later' }]);
    expect((await refused).code).toBe('UNAVAILABLE');
    runtime.die();
    runtime.revive();
    void model.countTokens('a').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([restore('m')]);
  });
});

describe('a load', () => {
  test('that replaces a model gives its reference back, and is restored without that', async () => {
    const runtime = new FakeRuntime();
    const old = await loaded(runtime, 'old');
    const model = load(runtime.connection, 'new', { replace: old }, 256);
    const [message] = await runtime.received();
    expect(message?.[3]).toEqual({ source: 'new', replace: 'old' });
    runtime.send([2, message?.[1], { model: 'new' }]);
    await model;
    runtime.die();
    runtime.revive();
    void (await model).countTokens('a').catch(() => undefined);
    void old.countTokens('a').catch(() => undefined);
    expect(shown(await runtime.received())).toEqual([
      restore('new'),
      ['count_tokens', { text: 'a', model: 'old' }],
    ]);
  });

  test('that failed after the old model had gone says so, and the old one is forgotten', async () => {
    const runtime = new FakeRuntime();
    const old = await loaded(runtime, 'old');
    const failed = failure(load(runtime.connection, 'new', { replace: old }, 256));
    const [message] = await runtime.received();
    const error = { code: 'MODEL_LOAD_FAILED', message: 'no', details: { replaced: true } };
    runtime.send([3, message?.[1], error]);
    expect((await failed).details).toEqual({ replaced: true });
    runtime.die();
    runtime.revive();
    expect(runtime.connection.models.isFresh).toBe(true);
  });

  test('that replaces a lost model gives it back here, and names only the new one', async () => {
    const [runtime, old] = await restarted('old');
    const lost = failure((old as Model).countTokens('a'));
    await runtime.received();
    runtime.die();
    runtime.revive();
    expect((await lost).details).toMatchObject({ cause: 'crashed' });
    const model = load(runtime.connection, 'new', { replace: old as Model }, 256);
    const [message] = await runtime.received();
    expect(message?.[3]).toEqual({ source: 'new' });
    runtime.send([2, message?.[1], { model: 'new' }]);
    expect((await model).handle).toBe('new');
    expect(runtime.connection.models.isFresh).toBe(true);
  });

  test('cannot replace a model of another runtime', async () => {
    const other = await loaded(new FakeRuntime(), 'm');
    const error = await failure(load(new FakeRuntime().connection, 'n', { replace: other }, 256));
    expect(error).toMatchObject({ code: 'INVALID_REQUEST', details: { field: 'replace' } });
  });

  test('whose caller has gone gives its reference back when it succeeds all the same', async () => {
    const runtime = new FakeRuntime();
    const controller = new AbortController();
    const aborted = failure(load(runtime.connection, 'm', { signal: controller.signal }, 256));
    const [message] = await runtime.received();
    controller.abort();
    expect((await aborted).code).toBe('CANCELLED');
    await runtime.received();
    runtime.send([2, message?.[1], { model: 'm' }]);
    expect(shown(await runtime.received())).toEqual([['unload_model', { model: 'm' }]]);
  });

  test('whose caller has gone leaves the references of others alone when the process ends', async () => {
    const runtime = new FakeRuntime();
    const model = await loaded(runtime, 'm');
    const controller = new AbortController();
    const aborted = failure(load(runtime.connection, 'm', { signal: controller.signal }, 256));
    const [message] = await runtime.received();
    controller.abort();
    await aborted;
    await runtime.received();
    const call = model.countTokens('a');
    const rest = await runtime.received();
    runtime.send([2, message?.[1], { model: 'm' }]);
    expect(shown([...rest, ...(await runtime.received())])).toEqual([
      ['count_tokens', { text: 'a', model: 'm' }],
      ['unload_model', { model: 'm' }],
    ]);
    runtime.die();
    runtime.revive();
    let references = 0;
    for (let rounds = 0; rounds < 3; rounds++) {
      for (const [, id, method, params] of await runtime.received()) {
        if (method === 'load_model') references += (params as { references: number }).references;
        if (method === 'unload_model') references--;
        runtime.send([2, id, method === 'count_tokens' ? { count: 7 } : { model: 'm' }]);
      }
    }
    expect(await call).toBe(7);
    expect(references).toBe(1);
  });
});
