import { describe, expect, test } from 'vitest';
import { IsthmusError } from '../../bridge/src/errors.js';
import { Model } from '../../bridge/src/model.js';
import { modelInfo } from '../../bridge/src/model-info.js';
import { FakeRuntime, failure, turn } from './support.js';

const INFO = {
  model: 'm1',
  vocab_size: 100,
  context_length: null,
  quantization: { bits: 4, group_size: 64 },
  eos_token_ids: [2],
};

function setUp() {
  const runtime = new FakeRuntime();
  const model = new Model(runtime.connection, modelInfo(INFO), 256);
  /** Make the call, check what was sent, and answer it. */
  const exchange = async <T>(call: Promise<T>, method: string, params: object, value: unknown) => {
    const [message] = await runtime.received();
    expect(message?.slice(2)).toEqual([method, params]);
    runtime.send([2, message?.[1], value]);
    return await call;
  };
  return { runtime, model, exchange };
}

test('what is said about a model comes in the names of the API', () => {
  expect(modelInfo(INFO)).toEqual({
    model: 'm1',
    vocabSize: 100,
    contextLength: null,
    quantization: { bits: 4, groupSize: 64 },
    eosTokenIds: [2],
  });
  expect(() => modelInfo({ source: 'x' })).toThrow(/no handle/);
});

describe('text operations', () => {
  test('tokenize gives ids', async () => {
    const { model, exchange } = setUp();
    const call = model.tokenize('hi', { addSpecialTokens: false });
    const params = { model: 'm1', text: 'hi', add_special_tokens: false };
    const value = { ids: Uint32Array.of(5, 6) };
    expect(await exchange(call, 'tokenize', params, value)).toEqual(Uint32Array.of(5, 6));
  });

  test('detokenize takes ids as typed array or plain one', async () => {
    const { model, exchange } = setUp();
    const bytes = new Uint8Array([5, 0, 0, 0]);
    const typed = model.detokenize(Uint32Array.of(5));
    const params = { model: 'm1', ids: bytes };
    expect(await exchange(typed, 'detokenize', params, { text: 'a' })).toBe('a');
    const plain = model.detokenize([5], { skipSpecialTokens: true });
    const others = { model: 'm1', ids: [5], skip_special_tokens: true };
    expect(await exchange(plain, 'detokenize', others, { text: 'b' })).toBe('b');
  });

  test('countTokens gives a number', async () => {
    const { model, exchange } = setUp();
    const call = model.countTokens('hi');
    expect(await exchange(call, 'count_tokens', { model: 'm1', text: 'hi' }, { count: 3 })).toBe(3);
  });

  test('applyChatTemplate gives text or ids, and leaves names of the template alone', async () => {
    const { model, exchange } = setUp();
    const messages = [{ role: 'user', content: 'hi', someField: 1 }];
    const text = model.applyChatTemplate(messages, { templateOptions: { thinkHard: true } });
    const params = { model: 'm1', messages, template_options: { thinkHard: true } };
    expect(await exchange(text, 'apply_chat_template', params, { text: 'x' })).toBe('x');
    const ids = model.applyChatTemplate(messages, { tokenize: true, addGenerationPrompt: false });
    const others = { model: 'm1', messages, tokenize: true, add_generation_prompt: false };
    const value = { ids: Uint32Array.of(1) };
    expect(await exchange(ids, 'apply_chat_template', others, value)).toEqual(Uint32Array.of(1));
  });

  test('a batch gives a value or an error for each item, in order', async () => {
    const { model, exchange } = setUp();
    const error = { code: 'INVALID_REQUEST', message: 'bad', retryable: false };
    const results = [{ count: 1 }, { error }, { count: 3 }];
    const call = model.countTokensBatch(['a', 'b', 'c']);
    const params = { model: 'm1', texts: ['a', 'b', 'c'] };
    const values = await exchange(call, 'batch_count_tokens', params, { results });
    expect([values[0], values[2]]).toEqual([1, 3]);
    expect(values[1]).toBeInstanceOf(IsthmusError);
    expect(values[1]).toMatchObject({ code: 'INVALID_REQUEST', message: 'bad' });
  });

  test('batches of texts and of ids have their own methods', async () => {
    const { model, exchange } = setUp();
    const ids = model.tokenizeBatch(['a']);
    const idResults = { results: [{ ids: Uint32Array.of(9) }] };
    expect(await exchange(ids, 'batch_tokenize', { model: 'm1', texts: ['a'] }, idResults)).toEqual(
      [Uint32Array.of(9)],
    );
    const texts = model.detokenizeBatch([[9]]);
    const textResults = { results: [{ text: 'a' }] };
    expect(
      await exchange(texts, 'batch_detokenize', { model: 'm1', ids: [[9]] }, textResults),
    ).toEqual(['a']);
  });

  test('an answer of another shape is the fault of the runtime', async () => {
    const { runtime, model } = setUp();
    const calls = [model.tokenize('a'), model.detokenize([1]), model.countTokens('a')];
    const failures = calls.map((call) => failure(call));
    await turn();
    runtime.send([2, 0, { ids: 5 }], [2, 1, null], [2, 2, { count: 'x' }]);
    for (const error of await Promise.all(failures)) {
      expect(error.code).toBe('REMOTE_PROTOCOL_ERROR');
    }
  });

  test('options of the call do not travel as params', async () => {
    const { model, exchange } = setUp();
    const { signal } = new AbortController();
    const call = model.tokenize('hi', { signal });
    await exchange(call, 'tokenize', { model: 'm1', text: 'hi' }, { ids: [] });
  });
});

test('a model is given back by unload, also at the end of an `await using` block', async () => {
  const { model, exchange } = setUp();
  const value = { unloaded: true, references: 0, resident: true };
  expect(await exchange(model.unload(), 'unload_model', { model: 'm1' }, value)).toEqual(value);
  const disposed = model[Symbol.asyncDispose]();
  await exchange(disposed, 'unload_model', { model: 'm1' }, value);
  const evicted = model.unload({ evict: true });
  await exchange(evicted, 'unload_model', { model: 'm1', evict: true }, value);
});
