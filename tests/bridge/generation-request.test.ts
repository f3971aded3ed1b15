import { describe, expect, test } from 'vitest';
import { Model } from '../../bridge/src/model.js';
import { modelInfo } from '../../bridge/src/model-info.js';
import type { GenerateRequest, Speculation } from '../../bridge/src/request-options.js';
import type { Value, WireMap } from '../../bridge/src/wire/decoder.js';
import { FakeRuntime, failure, type Message } from './support.js';

function setUp() {
  const runtime = new FakeRuntime();
  const load = (handle: string): Model =>
    new Model(runtime.connection, modelInfo({ model: handle }), 256);
  const model = load('m1');
  /** The params that a request's options become, but for its prompt and model. */
  const sent = async (options: Omit<GenerateRequest, 'prompt'>): Promise<Value> => {
    model.generate({ prompt: 'hi', ...options } as GenerateRequest);
    const [message] = (await runtime.received()) as [Message];
    const { prompt, model: handle, ...params } = message[3] as WireMap;
    expect([prompt, handle]).toEqual(['hi', 'm1']);
    return params;
  };
  return { runtime, load, model, sent };
}

test('options of the engine travel in the names of the wire', async () => {
  const { sent } = setUp();
  const options = { priority: -5, batch: false, cachePrompt: false };
  expect(await sent(options)).toEqual({ priority: -5, batch: false, cache_prompt: false });
});

describe('a response format', () => {
  const formats: GenerateRequest['responseFormat'][] = [
    { type: 'text' },
    { type: 'json_object' },
    { type: 'regex', pattern: '[0-9]+' },
    { type: 'choice', choices: ['yes', 'no'] },
    { type: 'grammar', grammar: 'start: "a"+' },
  ];

  test.each(formats)('travels as it is: %o', async (responseFormat) => {
    expect(await setUp().sent({ responseFormat })).toEqual({ response_format: responseFormat });
  });

  test('keeps the names in its schema', async () => {
    const schema = { type: 'object', properties: { firstName: {}, last_name: {} } };
    const responseFormat = { type: 'json_schema', schema } as const;
    expect(await setUp().sent({ responseFormat })).toEqual({ response_format: responseFormat });
  });
});

describe('speculation', () => {
  test('with a draft model names its handle', async () => {
    const { sent, load } = setUp();
    const speculation = { draftModel: load('m2'), maxDraftTokens: 4 };
    const params = { draft_model: 'm2', max_draft_tokens: 4 };
    expect(await sent({ speculation })).toEqual({ speculation: params });
    expect(await sent({ speculation: { draftModel: load('m3') } })).toEqual({
      speculation: { draft_model: 'm3' },
    });
  });

  test('from the text itself needs no model', async () => {
    const { sent } = setUp();
    const speculation = { promptLookup: true, maxDraftTokens: undefined } as const;
    expect(await sent({ speculation })).toEqual({ speculation: { prompt_lookup: true } });
  });

  test('is left to the runtime where it contradicts itself', async () => {
    const { sent, load } = setUp();
    // @ts-expect-error: one way or the other
    const both: Speculation = { draftModel: load('m2'), promptLookup: true };
    const params = { draft_model: 'm2', prompt_lookup: true };
    expect(await sent({ speculation: both })).toEqual({ speculation: params });
    // @ts-expect-error: no map at all
    expect(await sent({ speculation: 'm2' })).toEqual({ speculation: 'm2' });
  });

  test('drops no name, not even that of an option of calls', async () => {
    const speculation = { promptLookup: true, credit: 3 } as Speculation;
    const params = { prompt_lookup: true, credit: 3 };
    expect(await setUp().sent({ speculation })).toEqual({ speculation: params });
  });

  test.each([
    ['a handle', 'm2'],
    ['something like a model', { handle: 'm2' }],
    ['null', null],
  ])('with %s for a model is refused, and nothing is sent', async (_, draftModel) => {
    const { runtime, model } = setUp();
    const speculation = { draftModel } as unknown as Speculation;
    const error = await failure(model.generate({ prompt: 'hi', speculation }));
    expect(error).toMatchObject({
      name: 'InvalidRequestError',
      code: 'INVALID_REQUEST',
      details: { field: 'speculation.draft_model' },
    });
    expect(await runtime.received()).toEqual([]);
  });

  test('with a model of another runtime is refused, here as in a check of compatibility', async () => {
    const { runtime, model } = setUp();
    const stranger = setUp().load('m2');
    const generation = model.generate({ prompt: 'hi', speculation: { draftModel: stranger } });
    const check = model.checkDraftCompatibility(stranger);
    for (const error of [await failure(generation), await failure(check)]) {
      expect(error).toMatchObject({ name: 'InvalidRequestError' });
      expect(error.message).toMatch(/the same runtime/);
    }
    expect(await runtime.received()).toEqual([]);
  });
});
