/**
 * What requests to a model have in common: prompts, conversations and how tokens are chosen.
 *
 * Only types: values travel as they are and are checked by the runtime.
 */

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
