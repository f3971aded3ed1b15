/**
 * A loaded model: generation, and the text operations that need its tokenizer.
 *
 * Names of options are mapped for the wire; their values travel as they are and are checked by the
 * runtime, which refuses an option that it does not know.
 */

import type { BatchOperation } from './connection/batch.js';
import type { Connection } from './connection/connection.js';
import type { LaneKey } from './connection/lane.js';
import { type CallOptions, Phase } from './connection/request.js';
import type { IsthmusError } from './errors.js';
import { Generation, GenerationStream } from './generation.js';
import type { ModelInfo } from './model-info.js';
import type { Value, WireMap } from './wire/decoder.js';
import { CALL_OPTIONS, snakeKeys } from './wire/fields.js';
import { errorFromWire, isMap, malformed } from './wire/messages.js';
import { tokenIds } from './wire/token-ids.js';

export interface ChatMessage {
  readonly role: string;
  readonly content: unknown;
  readonly [field: string]: unknown;
}

interface ChatOptions {
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

type Prompt =
  | { readonly prompt: string; readonly messages?: never; readonly ids?: never }
  | { readonly messages: readonly ChatMessage[]; readonly prompt?: never; readonly ids?: never }
  | {
      readonly ids: Uint32Array | readonly number[];
      readonly prompt?: never;
      readonly messages?: never;
    };

export type GenerateRequest = Prompt &
  SamplingOptions &
  ChatOptions &
  CallOptions & {
    /** Tokens that may arrive ahead of the consumer. */
    readonly credit?: number | undefined;
  };

export interface TokenizeOptions extends CallOptions {
  readonly addSpecialTokens?: boolean | undefined;
}

/** At least one of the two. */
export type PiecesOptions =
  | { readonly offsets: true; readonly tokens?: boolean | undefined }
  | { readonly tokens: true; readonly offsets?: boolean | undefined };

/** A text's tokens with where they lie in it. */
export interface Encoding {
  readonly ids: Uint32Array;
  /** Two for each id: start and end in the string, in its own units. */
  readonly offsets?: Uint32Array;
  /** The vocabulary's name of each id. */
  readonly tokens?: readonly string[];
}

export interface DetokenizeOptions extends CallOptions {
  readonly skipSpecialTokens?: boolean | undefined;
}

export interface ChatTemplateOptions extends ChatOptions, CallOptions {
  /** Give token ids instead of text. */
  readonly tokenize?: boolean | undefined;
}

/** One result of a batch: the value, or the error of that item alone. */
export type BatchItem<T> = T | IsthmusError;

export class Model implements AsyncDisposable {
  readonly info: ModelInfo;
  readonly #connection: Connection;
  readonly #credit: number;

  /** @internal Use `runtime.loadModel`. */
  constructor(connection: Connection, info: ModelInfo, credit: number) {
    this.#connection = connection;
    this.info = info;
    this.#credit = credit;
  }

  get handle(): string {
    return this.info.model;
  }

  /** Generate text: iterate over the deltas, await the result, or both. */
  generate(request: GenerateRequest): Generation {
    const credit = request.credit ?? this.#credit;
    const stream = new GenerationStream(this.#connection, credit);
    try {
      const params = this.#params(snakeKeys(request));
      this.#connection.send(stream, 'generate', params, request, credit);
    } catch (error) {
      stream.phase = Phase.SETTLED;
      stream.fail(error as IsthmusError);
    }
    return new Generation(stream);
  }

  /** The token ids of a text; with `offsets` or `tokens` also where each token lies and what the
   * vocabulary calls it. */
  tokenize(text: string, options: TokenizeOptions & PiecesOptions): Promise<Encoding>;
  tokenize(text: string, options?: TokenizeOptions): Promise<Uint32Array>;
  tokenize(
    text: string,
    options?: TokenizeOptions & Partial<PiecesOptions>,
  ): Promise<Uint32Array | Encoding> {
    if (wantsPieces(options)) return this.#one(TOKENIZE_PIECES, text, inUtf16(options));
    return this.#one(TOKENIZE, text, options);
  }

  detokenize(ids: Uint32Array | readonly number[], options?: DetokenizeOptions): Promise<string> {
    return this.#one(DETOKENIZE, ids, options);
  }

  countTokens(text: string, options?: TokenizeOptions): Promise<number> {
    return this.#one(COUNT_TOKENS, text, options);
  }

  tokenizeBatch(
    texts: readonly string[],
    options: TokenizeOptions & PiecesOptions,
  ): Promise<BatchItem<Encoding>[]>;
  tokenizeBatch(
    texts: readonly string[],
    options?: TokenizeOptions,
  ): Promise<BatchItem<Uint32Array>[]>;
  tokenizeBatch(
    texts: readonly string[],
    options?: TokenizeOptions & Partial<PiecesOptions>,
  ): Promise<BatchItem<Uint32Array | Encoding>[]> {
    if (wantsPieces(options)) {
      return this.#batch('batch_tokenize', { texts }, encodingOf, inUtf16(options));
    }
    return this.#batch('batch_tokenize', { texts }, idsOf, options);
  }

  detokenizeBatch(
    ids: readonly (Uint32Array | readonly number[])[],
    options?: DetokenizeOptions,
  ): Promise<BatchItem<string>[]> {
    return this.#batch('batch_detokenize', { ids }, textOf, options);
  }

  countTokensBatch(
    texts: readonly string[],
    options?: TokenizeOptions,
  ): Promise<BatchItem<number>[]> {
    return this.#batch('batch_count_tokens', { texts }, countOf, options);
  }

  /** Write a conversation as the model's prompt: text, or token ids with `tokenize`. */
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions & { readonly tokenize: true },
  ): Promise<Uint32Array>;
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options?: ChatTemplateOptions & { readonly tokenize?: false | undefined },
  ): Promise<string>;
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options?: ChatTemplateOptions,
  ): Promise<string | Uint32Array> {
    const convert: (value: Value) => string | Uint32Array = options?.tokenize ? idsOf : textOf;
    const params = this.#with({ messages }, options);
    return this.#connection.call('apply_chat_template', params, convert, options);
  }

  /** Give the model back; the runtime forgets it when nobody else has it loaded. */
  unload(options?: CallOptions): Promise<{ unloaded: boolean; references: number }> {
    this.#connection.flushCalls();
    return this.#connection.call('unload_model', this.#params({}), unloadOf, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unload();
  }

  #params(params: Record<string, unknown>): Record<string, unknown> {
    params.model = this.info.model;
    return params;
  }

  /** Make a call that may share its frame with others of the same operation and options. */
  #one<Item, T>(
    operation: BatchOperation<Item, T>,
    item: Item,
    options: CallOptions | undefined,
  ): Promise<T> {
    const model = this.info.model;
    const { deadlineMs } = options ?? NO_OPTIONS;
    const shared = options === undefined ? NO_PARAMS : snakeKeys(options);
    const shown = shared === NO_PARAMS ? '{}' : JSON.stringify(shared);
    const id = `${operation.method} ${model} ${deadlineMs} ${shown}`;
    const key = (): LaneKey => ({ model, options: shared, deadlineMs });
    return this.#connection.callOne(id, operation, item, key, options);
  }

  /** Add the model and the named options, if any, to params. */
  #with(params: Record<string, unknown>, options: object | undefined): Record<string, unknown> {
    params.model = this.info.model;
    return options === undefined ? params : Object.assign(params, snakeKeys(options, CALL_OPTIONS));
  }

  #batch<T>(
    method: string,
    params: Record<string, unknown>,
    convert: (value: Value) => T,
    options: CallOptions | undefined,
  ): Promise<BatchItem<T>[]> {
    return this.#connection.call(
      method,
      this.#with(params, options),
      (value) => batchOf(value, convert),
      options,
    );
  }
}

function field(value: Value, name: string): Value | undefined {
  return isMap(value) ? value[name] : undefined;
}

const idsOf = (value: Value): Uint32Array => tokenIds(field(value, 'ids'));

function encodingOf(value: Value): Encoding {
  const offsets = field(value, 'offsets');
  const tokens = field(value, 'tokens');
  return {
    ids: idsOf(value),
    ...(offsets === undefined ? {} : { offsets: tokenIds(offsets) }),
    ...(Array.isArray(tokens) ? { tokens: tokens as string[] } : {}),
  };
}

function wantsPieces(options: Partial<PiecesOptions> | undefined): boolean {
  return options?.offsets === true || options?.tokens === true;
}

/** JavaScript's strings are sliced in UTF-16 code units. */
function inUtf16(options: TokenizeOptions | undefined): TokenizeOptions {
  return { ...options, offsetUnit: 'utf16' } as TokenizeOptions;
}

function textOf(value: Value): string {
  const text = field(value, 'text');
  if (typeof text === 'string') return text;
  throw malformed('a result has no text');
}

function countOf(value: Value): number {
  const count = field(value, 'count');
  if (typeof count === 'number') return count;
  throw malformed('a result has no count');
}

function unloadOf(value: Value): { unloaded: boolean; references: number } {
  const references = field(value, 'references');
  return {
    unloaded: field(value, 'unloaded') === true,
    references: typeof references === 'number' ? references : 0,
  };
}

function batchOf<T>(value: Value, convert: (value: Value) => T): BatchItem<T>[] {
  const results = field(value, 'results');
  if (!Array.isArray(results)) throw malformed('a batch has no results');
  return results.map((item) => {
    const error = field(item, 'error');
    return isMap(error) ? errorFromWire(error as WireMap) : convert(item);
  });
}

const NO_OPTIONS: CallOptions = {};
const NO_PARAMS = {};

const TOKENIZE: BatchOperation<string, Uint32Array> = {
  method: 'tokenize',
  items: 'texts',
  item: 'text',
  size: textSize,
  convert: idsOf,
};

const TOKENIZE_PIECES: BatchOperation<string, Encoding> = { ...TOKENIZE, convert: encodingOf };

const COUNT_TOKENS: BatchOperation<string, number> = {
  ...TOKENIZE,
  method: 'count_tokens',
  convert: countOf,
};

const DETOKENIZE: BatchOperation<Uint32Array | readonly number[], string> = {
  method: 'detokenize',
  items: 'ids',
  item: 'ids',
  size: (ids) => 4 * (ids?.length ?? 0),
  convert: textOf,
};

/** Whatever a caller without types may pass has a size; the runtime says what is wrong with it. */
function textSize(text: string): number {
  return text?.length ?? 0;
}
