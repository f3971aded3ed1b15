/**
 * What is asked of a model: prompts, conversations, how tokens are chosen, and what the engine may
 * do to be fast.
 *
 * Only types: values travel as they are and are checked by the runtime.
 */

import type { CallOptions } from './connection/request.js';
import type { Model } from './model.js';

export interface ChatMessage {
  readonly role: string;
  readonly content: unknown;
  readonly [field: string]: unknown;
}

export interface ChatOptions {
  readonly tools?: readonly unknown[] | undefined;
  readonly templateOptions?: Readonly<Record<string, unknown>> | undefined;
  readonly addGenerationPrompt?: boolean | undefined;
}

export interface SamplingOptions {
  /** 256 unless given. */
  readonly maxTokens?: number | undefined;
  /** 0, the default, is greedy. */
  readonly temperature?: number | undefined;
  readonly topP?: number | undefined;
  readonly topK?: number | undefined;
  readonly minP?: number | undefined;
  readonly repetitionPenalty?: number | undefined;
  readonly repetitionContextSize?: number | undefined;
  readonly presencePenalty?: number | undefined;
  readonly frequencyPenalty?: number | undefined;
  readonly penaltyContextSize?: number | undefined;
  readonly logitBias?: readonly (readonly [number, number])[] | undefined;
  readonly stop?: readonly string[] | undefined;
  readonly stopTokenIds?: readonly number[] | undefined;
  readonly ignoreEos?: boolean | undefined;
  readonly seed?: number | undefined;
  /** Log-probabilities of each token and of this many best ones. */
  readonly logprobs?: number | undefined;
}

export type Prompt =
  | { readonly prompt: string; readonly messages?: never; readonly ids?: never }
  | { readonly messages: readonly ChatMessage[]; readonly prompt?: never; readonly ids?: never }
  | {
      readonly ids: Uint32Array | readonly number[];
      readonly prompt?: never;
      readonly messages?: never;
    };

/** Tokens are drafted, and verified several in one pass. The output is the same as without. */
export type Speculation = {
  /** Most drafted tokens of a round, 1 to 64; 8 unless given. */
  readonly maxDraftTokens?: number | undefined;
} & (
  | {
      /** A smaller model of the same runtime, whose tokens are those of this one. */
      readonly draftModel: Model;
      readonly promptLookup?: never;
    }
  | {
      /** What followed the last time that the text went as it goes now. */
      readonly promptLookup: true;
      readonly draftModel?: never;
    }
);

/** What the whole output must match. What cannot be enforced to the letter is refused. */
export type ResponseFormat =
  | { readonly type: 'text' }
  | { readonly type: 'json_object' }
  | { readonly type: 'json_schema'; readonly schema: Readonly<Record<string, unknown>> }
  /** In the syntax of Rust's regex crate, without look-around. */
  | { readonly type: 'regex'; readonly pattern: string }
  | { readonly type: 'choice'; readonly choices: readonly string[] }
  /** In llguidance's variant of Lark. */
  | { readonly type: 'grammar'; readonly grammar: string };

export interface EngineOptions {
  /** -100 to 100, 0 unless given: higher is admitted, and its prompt evaluated, first. */
  readonly priority?: number | undefined;
  /** False: share no forward pass with other requests. */
  readonly batch?: boolean | undefined;
  /** False: neither use the KV cache of an earlier prompt nor leave one. */
  readonly cachePrompt?: boolean | undefined;
  readonly speculation?: Speculation | undefined;
  readonly responseFormat?: ResponseFormat | undefined;
}

export type GenerateRequest = Prompt &
  SamplingOptions &
  ChatOptions &
  EngineOptions &
  CallOptions & {
    /** Tokens that may arrive ahead of the consumer. */
    readonly credit?: number | undefined;
  };
