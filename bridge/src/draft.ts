/**
 * Verification of drafts: what is asked of the target model, and its verdict.
 *
 * Names are mapped here; the rules (greedy, sampled, with the draft's own distributions) are the
 * runtime's.
 */

import { type BatchOperation, lengthOf } from './connection/batch.js';
import type { CallOptions } from './connection/request.js';
import { readLogprobs, type TokenLogprob } from './generation-result.js';
import type { ChatOptions, Prompt, SamplingOptions } from './request-options.js';
import type { Value } from './wire/decoder.js';
import { camelKeys, snakeKeys } from './wire/fields.js';
import { isMap, malformed, mapOf } from './wire/messages.js';

/** The distribution that one drafted token was drawn from; ids left out have no probability. */
export interface DraftProbabilities {
  readonly ids: Uint32Array | readonly number[];
  readonly probs: readonly number[];
}

type DraftSampling = Omit<SamplingOptions, 'maxTokens' | 'stop' | 'stopTokenIds' | 'ignoreEos'>;

/** A prompt, the tokens drafted after it, and how the target would have chosen. */
export type DraftCheck = Prompt &
  DraftSampling &
  ChatOptions & {
    /** 1 to 256 token ids. */
    readonly draft: Uint32Array | readonly number[];
    /** Index of the first drafted token in its completion: with `seed` it picks the random bits. */
    readonly position?: number | undefined;
    /** What the draft was drawn from, for each token. Without it the draft counts as certain of its
     * tokens, and the verdict is what `generate` would give with the same seed. */
    readonly proposal?: readonly DraftProbabilities[] | undefined;
  };

/** The target's verdict on one draft. */
export interface DraftVerdict {
  /** Drafted tokens that are accepted, from the first. */
  readonly accepted: number;
  /** The token after them: the correction, or one more when all were accepted. */
  readonly token: number;
  readonly promptTokens: number;
  readonly seed: number;
  /** With `logprobs`: of the accepted tokens and of `token`. */
  readonly logprobs?: readonly TokenLogprob[];
}

export interface DraftCompatibilityOptions extends CallOptions {
  /** Drafted tokens of a round, 4 unless given. */
  readonly draftTokens?: number | undefined;
  /** Whether the models' passes are timed; true unless given. */
  readonly measure?: boolean | undefined;
}

/** Whether one model can draft for another, and whether that can pay. */
export interface DraftCompatibility {
  readonly isCompatible: boolean;
  /** What differs, a sentence each. */
  readonly differences: readonly string[];
  readonly sharedTokens: number;
  readonly vocabSizes: readonly [target: number, draft: number];
  readonly draftTokens: number;
  /** Milliseconds on this machine; null when the models do not fit or were not measured. */
  readonly costs: {
    readonly targetStepMs: number;
    readonly verifyMs: number;
    readonly draftStepMs: number;
  } | null;
  /** Acceptance rate from which speculation is faster; null when it never is. */
  readonly breakEvenAcceptance: number | null;
  readonly canPay: boolean | null;
}

/** Write one draft as it travels. */
export function draftParams(check: DraftCheck): Record<string, unknown> {
  return snakeKeys(check);
}

/** What a draft weighs on the wire, about. */
function draftSize(params: Record<string, unknown>): number {
  const { prompt, ids, draft, messages } = params;
  if (messages !== undefined) return MESSAGES_BYTES * lengthOf(messages);
  return lengthOf(prompt) + 4 * (lengthOf(ids) + lengthOf(draft));
}

/** A message of a conversation, for want of a look into it. */
const MESSAGES_BYTES = 1_024;

function verdictOf(value: Value): DraftVerdict {
  const { accepted, token, prompt_tokens: promptTokens, seed, logprobs } = mapOf(value);
  if (typeof accepted !== 'number' || typeof token !== 'number') {
    throw malformed('a verdict does not say what was accepted');
  }
  return {
    accepted,
    token,
    promptTokens: promptTokens as number,
    seed: seed as number,
    ...(logprobs === undefined ? {} : { logprobs: readLogprobs(logprobs) }),
  };
}

export function compatibilityOf(value: Value): DraftCompatibility {
  const answer = camelKeys(mapOf(value));
  const { costs } = answer;
  return {
    ...answer,
    costs: isMap(costs) ? camelKeys(costs) : null,
  } as unknown as DraftCompatibility;
}

export const CHECK_DRAFT: BatchOperation<Record<string, unknown>, DraftVerdict> = {
  method: 'check_draft',
  items: 'items',
  item: undefined,
  size: draftSize,
  convert: verdictOf,
};
