import { describe, expect, test } from 'vitest';
import type { Generation, GenerationDelta } from '../../bridge/src/generation.js';
import { Model } from '../../bridge/src/model.js';
import { modelInfo } from '../../bridge/src/model-info.js';
import { FakeRuntime, failure, type Message, turn } from './support.js';

const END = {
  finish_reason: 'stop',
  stop: '\n',
  usage: { prompt_tokens: 2, completion_tokens: 3, cached_tokens: 1 },
  timing: { queue_ms: 1, prefill_ms: 2, decode_ms: 3, ttft_ms: 4, tokens_per_second: 5 },
  seed: 42,
};

const delta = (text: string, ...ids: number[]): unknown[] => [
  4,
  0,
  ids.length,
  { text, ids: Uint32Array.from(ids) },
];
const end = (value: object = END): unknown[] => [5, 0, value];

function setUp(options: ConstructorParameters<typeof FakeRuntime>[0] = {}, credit = 256) {
  const runtime = new FakeRuntime(options);
  const model = new Model(runtime.connection, modelInfo({ model: 'm1' }), credit);
  const generate = (extra = {}): Generation => model.generate({ prompt: 'hi', ...extra });
  return { runtime, model, generate };
}

const kinds = (messages: Message[]): number[] => messages.map(([kind]) => kind);

async function collect(generation: AsyncIterable<GenerationDelta>): Promise<string[]> {
  const texts: string[] = [];
  for await (const { text } of generation) texts.push(text);
  return texts;
}

describe('a generation', () => {
  test('is sent at once, with its options in the names of the wire', async () => {
    const { runtime, generate } = setUp();
    const options = { maxTokens: 5, topP: 0.9, stopTokenIds: [7], deadlineMs: 9_000, credit: 64 };
    generate({ ...options, templateOptions: { innerName: 1 } });
    expect(await runtime.received()).toEqual([
      [
        1,
        0,
        'generate',
        {
          prompt: 'hi',
          max_tokens: 5,
          top_p: 0.9,
          stop_token_ids: [7],
          template_options: { innerName: 1 },
          model: 'm1',
        },
        { deadline_ms: 9_000, credit: 64 },
      ],
    ]);
  });

  test('can be awaited for everything at once', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    runtime.send(delta('Hel', 1, 2), delta('lo', 3), end());
    expect(await generation).toEqual({
      text: 'Hello',
      ids: Uint32Array.of(1, 2, 3),
      finishReason: 'stop',
      stop: '\n',
      usage: { promptTokens: 2, completionTokens: 3, cachedTokens: 1 },
      timing: {
        queueMs: 1,
        prefillMs: 2,
        decodeMs: 3,
        ttftMs: 4,
        tokensPerSecond: 5,
        prefillTokensPerSecond: 0,
      },
      seed: 42,
      cache: null,
      batching: null,
      speculation: null,
      isComplete: null,
      toolCalls: null,
    });
  });

  test('can be iterated, and awaited afterwards', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    const texts = collect(generation);
    runtime.send(delta('a', 1));
    await turn();
    runtime.send(delta('b', 2), end());
    expect(await texts).toEqual(['a', 'b']);
    expect((await generation).text).toBe('ab');
    expect(await generation.result).toBe(await generation);
  });

  test('can be iterated and awaited at the same time', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    const both = Promise.all([collect(generation), generation.result]);
    runtime.send(delta('a', 1), delta('b', 2), end());
    const [texts, result] = await both;
    expect([texts, result.text]).toEqual([['a', 'b'], 'ab']);
  });

  test('gathers log-probabilities', async () => {
    const { runtime, generate } = setUp();
    const generation = generate({ logprobs: 1 });
    const first = { id: 1, logprob: -0.5, top: [[1, -0.5]] };
    const second = { id: 2, logprob: -1.5, top: [[9, -1]] };
    runtime.send(
      [4, 0, 1, { text: 'a', ids: [1], logprobs: [first] }],
      [4, 0, 1, { text: 'b', ids: [2], logprobs: [second] }],
      end(),
    );
    expect((await generation).logprobs).toEqual([first, second]);
  });
});

describe('credit', () => {
  test('follows arrival when the result is only awaited', async () => {
    const { runtime, generate } = setUp({}, 4);
    const generation = generate();
    const result = generation.then(({ text }) => text);
    await runtime.received();
    runtime.send(delta('ab', 1, 2));
    expect(await runtime.received()).toEqual([[7, 0, 2]]);
    runtime.send(delta('cd', 3, 4), delta('ef', 5, 6), end());
    expect(await result).toBe('abcdef');
  });

  test('follows the consumer when it iterates', async () => {
    const { runtime, generate } = setUp({}, 4);
    const iterator = generate()[Symbol.asyncIterator]();
    runtime.send(delta('ab', 1, 2), delta('cd', 3, 4));
    expect(kinds(await runtime.received())).toEqual([1]);
    await iterator.next();
    expect(await runtime.received()).toEqual([[7, 0, 2]]);
  });

  test('is not granted for a generation that nobody uses', async () => {
    const { runtime, generate } = setUp({}, 2);
    const generation = generate();
    runtime.send(delta('ab', 1, 2));
    expect(kinds(await runtime.received())).toEqual([1]);
    runtime.send(end());
    expect((await generation).text).toBe('ab');
  });
});

describe('an end before the end', () => {
  test('by cancel() settles with what there is', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    await runtime.received();
    runtime.send(delta('so far', 1, 2));
    generation.cancel();
    generation.cancel();
    expect(await runtime.received()).toEqual([[6, 0]]);
    runtime.send(end({ ...END, finish_reason: 'cancelled' }));
    expect(await generation).toMatchObject({ text: 'so far', finishReason: 'cancelled' });
  });

  test('by cancel() before the runtime saw it settles here', async () => {
    const { runtime, generate, model } = setUp({ limits: { in_flight: 1 } });
    const first = generate();
    const second = model.generate({ prompt: 'later' });
    second.cancel();
    expect(await second).toMatchObject({ text: '', finishReason: 'cancelled', seed: null });
    runtime.send(end());
    await first;
    expect(kinds(await runtime.received())).toEqual([1]);
  });

  test('by leaving the loop cancels once, and the result says so', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    await runtime.received();
    runtime.send(delta('a', 1), delta('b', 2));
    for await (const _ of generation) break;
    expect(await runtime.received()).toEqual([[6, 0]]);
    runtime.send(delta('late', 3), end({ ...END, finish_reason: 'cancelled' }));
    expect(await generation).toMatchObject({ finishReason: 'cancelled' });
    expect(await collect(generation)).toEqual([]);
  });

  test('by its signal rejects with what there is', async () => {
    const { runtime, generate } = setUp();
    const controller = new AbortController();
    const generation = generate({ signal: controller.signal });
    await runtime.received();
    runtime.send(delta('so far', 1, 2));
    const loop = failure(collect(generation));
    await turn();
    controller.abort();
    for (const error of [await loop, await failure(generation)]) {
      expect(error.name).toBe('AbortError');
      expect(error.partial).toEqual({
        text: 'so far',
        ids: Uint32Array.of(1, 2),
        completionTokens: 2,
      });
    }
    runtime.send(end());
    expect(runtime.connection.droppedReplies).toBe(0);
  });

  test('by a signal that had fired sends nothing', async () => {
    const { runtime, generate } = setUp();
    const error = await failure(generate({ signal: AbortSignal.abort() }));
    expect(error.name).toBe('AbortError');
    expect(await runtime.received()).toEqual([]);
  });

  test('by an error keeps what was delivered', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    const error = { code: 'NUMERIC_ERROR', message: 'nan', phase: 'decode_step' };
    runtime.send(delta('half', 1), [3, 0, error]);
    expect(await failure(generation)).toMatchObject({ ...error, partial: { text: 'half' } });
    expect(await generation[Symbol.asyncIterator]().next()).toMatchObject({ done: false });
  });

  test('by the end of the runtime does too', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    runtime.send(delta('half', 1));
    runtime.end(() => new (class extends Error {})('gone') as never);
    await expect(generation.result).rejects.toMatchObject({ partial: { text: 'half' } });
  });

  test('by a malformed delta cancels it', async () => {
    const { runtime, generate } = setUp();
    const generation = generate();
    await runtime.received();
    runtime.send([4, 0, 1, { text: 5, ids: [] }]);
    expect(await failure(generation)).toMatchObject({ code: 'REMOTE_PROTOCOL_ERROR' });
    expect(await runtime.received()).toEqual([[6, 0]]);
  });
});

describe('a generation that nobody uses', () => {
  test('raises no unhandled rejection when it fails', async () => {
    const unhandled: unknown[] = [];
    const listen = (reason: unknown): number => unhandled.push(reason);
    process.on('unhandledRejection', listen);
    const { runtime, generate } = setUp();
    generate();
    void generate().result;
    generate({ prompt: '\ud800' });
    runtime.send([3, 0, { code: 'INTERNAL', message: '' }], [3, 1, { code: 'INTERNAL' }]);
    for (let turns = 0; turns < 3; turns++) await turn();
    process.off('unhandledRejection', listen);
    expect(unhandled).toEqual([]);
  });

  test('is cancelled when it is collected', async () => {
    const { runtime, generate } = setUp();
    const use = async (): Promise<void> => {
      const iterator = generate()[Symbol.asyncIterator]();
      runtime.send(delta('a', 1));
      await iterator.next();
    };
    await use();
    await runtime.received();
    await expect
      .poll(async () => {
        global.gc?.();
        return kinds(await runtime.received());
      })
      .toEqual([6]);
  });

  test('but is awaited is not', async () => {
    const { runtime, generate } = setUp();
    const text = generate().then(({ text }) => text);
    for (let turns = 0; turns < 5; turns++) {
      global.gc?.();
      await turn();
    }
    expect(kinds(await runtime.received())).toEqual([1]);
    runtime.send(delta('kept', 1), end());
    expect(await text).toBe('kept');
  });
});
