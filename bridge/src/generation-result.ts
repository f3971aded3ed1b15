/**
 * What a generation says of itself at its end, read from the wire.
 *
 * Names are mapped here. What an older runtime does not say is null or 0, so that a result always
 * has all of its fields. Text and ids are gathered elsewhere: they came before the end.
 */

import type { Value, WireMap } from './wire/decoder.js';
import { camelKeys } from './wire/fields.js';
import { isMap, malformed } from './wire/messages.js';

/** The log-probability of one token, and those of the best ones. */
export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
  /** Token id and log-probability, best first. */
  readonly top: readonly (readonly [number, number])[];
}

export interface GenerationUsage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Tokens of the prompt that were not evaluated: an earlier generation's KV cache held them. */
  readonly cachedTokens: number;
}

export interface GenerationTiming {
  readonly queueMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
  readonly ttftMs: number;
  readonly tokensPerSecond: number;
  readonly prefillTokensPerSecond: number;
}

/** Whether it shared forward passes with others. */
export interface BatchingReport {
  readonly state: 'batched' | 'alone' | (string & {});
  /** Why it shares none, or none any more; null when it may. */
  readonly reason:
    | 'requested'
    | 'does_not_pay'
    | 'cache_kind'
    | 'speculation'
    | 'near_tie'
    | 'failed'
    | (string & {})
    | null;
}

/** What was reused of an earlier KV cache, and what that saved. */
export interface CacheReport {
  /** Where the reused tokens came from: memory, disk at least in part (`warm`), or there are none. */
  readonly state: 'hot' | 'warm' | 'cold' | (string & {});
  readonly reusedTokens: number;
  readonly prefilledTokens: number;
  /** How long reading from disk took. */
  readonly loadMs: number;
  readonly prefillMs: number;
}

/** How drafting went. */
export interface SpeculationReport {
  readonly kind: 'draft_model' | 'prompt_lookup' | (string & {});
  /** Passes that verified a draft. */
  readonly rounds: number;
  readonly drafted: number;
  readonly accepted: number;
  /** Null when nothing was drafted. */
  readonly acceptanceRate: number | null;
  /** Tokens a second as a multiple of plain steps; null when there is nothing to compare. */
  readonly speedup: number | null;
  /** Why it went on without drafts; null when it did not. */
  readonly stopped: string | null;
}

/** A call that the model made of one of the request's tools. */
export interface ToolCall {
  /** When the model gave one. */
  readonly id?: string;
  readonly name: string;
  readonly arguments: Readonly<Record<string, Value>>;
}

/** What began as a call of a tool, but is none that can be read. */
export interface UnreadableToolCall {
  readonly name: null;
  readonly arguments: null;
  /** What the model wrote. */
  readonly raw: string;
  readonly error: string;
}

export interface GenerationResult {
  readonly text: string;
  readonly ids: Uint32Array;
  readonly finishReason: 'stop' | 'length' | 'cancelled' | (string & {});
  /** The stop string or token id that matched. */
  readonly stop: string | number | null;
  readonly usage: GenerationUsage;
  readonly timing: GenerationTiming;
  /** Null when the generation was cancelled before the runtime saw it. */
  readonly seed: number | null;
  readonly logprobs?: readonly TokenLogprob[];
  /** Null when it was cancelled before it ran, or the runtime does not say. */
  readonly cache: CacheReport | null;
  /** Null when it was cancelled before it ran. */
  readonly batching: BatchingReport | null;
  /** Null unless `speculation` was asked for. */
  readonly speculation: SpeculationReport | null;
  /** With a `responseFormat`: whether the text is a whole match of it; false when it was cut. */
  readonly isComplete: boolean | null;
  /** Null when no tools were given, or calls cannot be told from text with this model. */
  readonly toolCalls: readonly (ToolCall | UnreadableToolCall)[] | null;
}

/** Read log-probabilities from the wire, where they have the same shape. */
export function readLogprobs(value: Value): readonly TokenLogprob[] {
  if (Array.isArray(value)) return value as unknown as readonly TokenLogprob[];
  throw malformed('log-probabilities are no list');
}

/** Read the value of an end. */
export function resultOfEnd(end: WireMap): Omit<GenerationResult, 'text' | 'ids' | 'logprobs'> {
  const { stop, seed, is_complete: isComplete, tool_calls: calls } = end;
  return {
    finishReason: typeof end.finish_reason === 'string' ? end.finish_reason : 'stop',
    stop: typeof stop === 'string' || typeof stop === 'number' ? stop : null,
    usage: usageOf(isMap(end.usage) ? end.usage : {}),
    timing: timingOf(isMap(end.timing) ? end.timing : {}),
    seed: typeof seed === 'number' ? seed : null,
    cache: report<CacheReport>(end.cache),
    batching: report<BatchingReport>(end.batching),
    speculation: report<SpeculationReport>(end.speculation),
    isComplete: typeof isComplete === 'boolean' ? isComplete : null,
    // The names in them are the tools' own.
    toolCalls: Array.isArray(calls)
      ? (calls as unknown as (ToolCall | UnreadableToolCall)[])
      : null,
  };
}

function usageOf(usage: WireMap): GenerationUsage {
  return {
    promptTokens: number(usage.prompt_tokens),
    completionTokens: number(usage.completion_tokens),
    cachedTokens: number(usage.cached_tokens),
  };
}

function timingOf(timing: WireMap): GenerationTiming {
  return {
    queueMs: number(timing.queue_ms),
    prefillMs: number(timing.prefill_ms),
    decodeMs: number(timing.decode_ms),
    ttftMs: number(timing.ttft_ms),
    tokensPerSecond: number(timing.tokens_per_second),
    prefillTokensPerSecond: number(timing.prefill_tokens_per_second),
  };
}

function report<T>(value: Value | undefined): T | null {
  return isMap(value) ? (camelKeys(value) as unknown as T) : null;
}

function number(value: Value | undefined): number {
  return typeof value === 'number' ? value : 0;
}
