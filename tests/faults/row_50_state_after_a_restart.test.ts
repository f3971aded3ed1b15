/** Row 50: models that were loaded before the runtime ended are there again at their next use. */

import { rmSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { Model, Runtime } from '../../bridge/dist/index.js';
import { failure, kill, startFaulty, temporaryFolder, waitUntil, writeChain } from './support.js';

/** Kill the runtime and wait until that is noticed. */
async function crash(runtime: Runtime): Promise<void> {
  const { pid } = runtime.hello;
  kill(pid);
  await waitUntil(() => runtime.state !== 'running' || runtime.hello.pid !== pid, 'the end');
}

const greedy = (model: Model): Promise<Uint32Array> =>
  model.generate({ prompt: 'The isthmus', maxTokens: 12 }).result.then(({ ids }) => ids);

const handles = async (runtime: Runtime): Promise<[string, number][]> =>
  (await runtime.listModels()).map(({ model, references }) => [model, references]);

test('a handle is good for the same model with the same tokens and references', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const again = await runtime.loadModel();
  expect(again.handle).toBe(model.handle);
  const [ids, tokens] = [await model.tokenize('hello'), await greedy(model)];
  await crash(runtime);
  expect(await model.tokenize('hello')).toEqual(ids);
  expect(await greedy(again)).toEqual(tokens);
  expect(await handles(runtime)).toEqual([[model.handle, 2]]);
  expect((await runtime.stats()).supervision.restored).toBe(1);
  expect(await again.unload()).toMatchObject({ unloaded: false, references: 1 });
  expect(await model.unload()).toMatchObject({ unloaded: true, references: 0 });
  expect((await failure(model.tokenize('gone'))).code).toBe('MODEL_NOT_LOADED');
});

test('a model and its draft model both come back for one generation', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const draftModel = await runtime.loadModel('default-draft');
  const request = { prompt: 'Once', maxTokens: 12, speculation: { draftModel } };
  const { ids } = await model.generate(request);
  await crash(runtime);
  expect((await model.generate(request)).ids).toEqual(ids);
  expect((await runtime.stats()).supervision.restored).toBe(2);
});

test('many calls at once have each model loaded once', async () => {
  const runtime = await startFaulty();
  const models = [await runtime.loadModel(), await runtime.loadModel('default-draft')] as const;
  const expected = await models[0].tokenize('a text');
  await crash(runtime);
  const calls = Array.from({ length: 200 }, (_, index) =>
    (models[index % 2] as Model).tokenize('a text'),
  );
  for (const ids of await Promise.all(calls)) expect(ids).toEqual(expected);
  expect((await runtime.stats()).supervision.restored).toBe(2);
});

test('a model that has gone from the disk fails alone, with the reason', async () => {
  const runtime = await startFaulty();
  const folder = writeChain(temporaryFolder());
  const [gone, there] = [await runtime.loadModel(folder), await runtime.loadModel()];
  rmSync(folder, { recursive: true });
  await crash(runtime);
  const calls = [failure(gone.countTokens('a')), failure(gone.generate({ prompt: 'a' }))];
  for (const error of await Promise.all(calls)) expect(error.code).toMatch(/LOAD_FAILED|PATH/);
  expect(await there.countTokens('a')).toBeGreaterThan(0);
});

test('a model whose loading kills the runtime is not loaded by itself again', async () => {
  const runtime = await startFaulty({ restart: { backoffMs: 1 } }, '--faults');
  const folder = writeChain(temporaryFolder());
  const [deadly, other] = [await runtime.loadModel(folder), await runtime.loadModel()];
  await crash(runtime);
  await runtime.echo('up again');
  await runtime.injectFault(`model.load:crash:source=${folder}`);
  const error = await failure(deadly.countTokens('a'));
  expect(error).toMatchObject({ code: 'MODEL_LOAD_FAILED', details: { cause: 'crashed' } });
  expect((await failure(deadly.generate({ prompt: 'a' }))).details.cause).toBe('crashed');
  expect(await other.countTokens('a')).toBeGreaterThan(0);
  expect((await runtime.health()).restarts).toBe(2);
  const loaded = await runtime.loadModel(folder);
  expect(await loaded.countTokens('a')).toBe(await deadly.countTokens('a'));
});

test('a model that is unloaded while there is no process is not loaded again', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  await crash(runtime);
  expect(await model.unload()).toEqual({ unloaded: true, references: 0, resident: false });
  expect(await handles(runtime)).toEqual([]);
});

test('what was asked before the kill is answered after it, each call with its own', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const texts = Array.from({ length: 300 }, (_, index) => `text number ${index}`);
  const expected = await model.tokenizeBatch(texts);
  const calls = texts.map((text) => model.tokenize(text));
  kill(runtime.hello.pid);
  expect(await Promise.all(calls)).toEqual(expected);
});

test('a runtime that is told to restart finishes what it has, and models come back', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const before = runtime.hello.pid;
  const running = model.generate({ prompt: 'Once', maxTokens: 40 });
  await runtime.ping();
  const [restarted, again] = [runtime.restart(), runtime.restart()];
  const meanwhile = model.tokenize('meanwhile');
  expect((await running).usage.completionTokens).toBeGreaterThan(0);
  await Promise.all([restarted, again]);
  expect(runtime.hello.pid).not.toBe(before);
  expect(await meanwhile).toEqual(await model.tokenize('meanwhile'));
  expect((await runtime.health()).restarts).toBe(1);
});

test('the seeds of a sampled generation give the same tokens in the next process', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const request = { prompt: 'Once', maxTokens: 12, temperature: 0.8, seed: 7 };
  const { ids } = await model.generate(request);
  await crash(runtime);
  expect((await model.generate(request)).ids).toEqual(ids);
});
