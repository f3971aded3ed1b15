import { expect, test } from 'vitest';
import { resultOfEnd } from '../../bridge/src/generation-result.js';
import type { WireMap } from '../../bridge/src/wire/decoder.js';

const SPECULATION = {
  kind: 'draft_model',
  rounds: 4,
  drafted: 12,
  accepted: 9,
  acceptance_rate: 0.75,
  speedup: 1.5,
  stopped: null,
};

test('how it was batched is read as it was said', () => {
  const batching = { state: 'batched', reason: 'near_tie' };
  expect(resultOfEnd({ batching }).batching).toEqual(batching);
  const free = { state: 'alone', reason: null };
  expect(resultOfEnd({ batching: free }).batching).toEqual(free);
});

test('what was reused of an earlier cache comes in the names of the API', () => {
  const cache = { state: 'hot', reused_tokens: 30, prefilled_tokens: 2, load_ms: 0, prefill_ms: 4 };
  expect(resultOfEnd({ cache }).cache).toEqual({
    ...{ state: 'hot', reusedTokens: 30, prefilledTokens: 2 },
    ...{ loadMs: 0, prefillMs: 4 },
  });
  expect(resultOfEnd({ cache: null }).cache).toBeNull();
});

test('how drafting went comes in the names of the API', () => {
  const { acceptance_rate: acceptanceRate, ...others } = SPECULATION;
  const { speculation } = resultOfEnd({ speculation: SPECULATION });
  expect(speculation).toEqual({ ...others, acceptanceRate });
});

test('a draft that never was has no rate', () => {
  const none = { ...SPECULATION, drafted: 0, acceptance_rate: null, speedup: null };
  expect(resultOfEnd({ speculation: none }).speculation).toMatchObject({
    acceptanceRate: null,
    speedup: null,
  });
});

test.each([true, false])('a formatted output says whether it is complete: %s', (isComplete) => {
  expect(resultOfEnd({ is_complete: isComplete }).isComplete).toBe(isComplete);
});

test('calls of tools keep the names that are in them, those that do not parse among them', () => {
  const calls = [
    { id: 'c1', name: 'get_weather', arguments: { city_name: 'Paris', in_days: [1, 2] } },
    { name: null, arguments: null, raw: '{"name":', error: 'ValueError: it ends' },
  ];
  expect(resultOfEnd({ tool_calls: calls }).toolCalls).toEqual(calls);
});

test('an output without calls is told from one where none could be found', () => {
  const toolCalls = (end: WireMap): unknown => resultOfEnd(end).toolCalls;
  expect([toolCalls({ tool_calls: [] }), toolCalls({ tool_calls: null })]).toEqual([[], null]);
});

test('tokens that were not evaluated are counted', () => {
  const usage = { prompt_tokens: 40, completion_tokens: 3, cached_tokens: 32 };
  expect(resultOfEnd({ usage }).usage).toEqual({
    promptTokens: 40,
    completionTokens: 3,
    cachedTokens: 32,
  });
});

test('what an older runtime leaves out is null or 0, never missing', () => {
  expect(resultOfEnd({ finish_reason: 'length' })).toEqual({
    finishReason: 'length',
    stop: null,
    usage: { promptTokens: 0, completionTokens: 0, cachedTokens: 0 },
    timing: {
      queueMs: 0,
      prefillMs: 0,
      decodeMs: 0,
      ttftMs: 0,
      tokensPerSecond: 0,
      prefillTokensPerSecond: 0,
    },
    seed: null,
    cache: null,
    batching: null,
    speculation: null,
    isComplete: null,
    toolCalls: null,
  });
});
