/**
 * A loaded model: generation, and the text operations that need its tokenizer.
 *
 * Names of options are mapped for the wire; their values travel as they are and are checked by the
 * runtime, which refuses an option that it does not know.
 */

import type { BatchOperation } from './connection/batch.js';
import type { Connection } from './connection/connection.js';
import type { LaneKey } from './connection/lane.js';
import { type CallOptions, type Params, Phase } from './connection/request.js';
import {
  CHECK_DRAFT,
  compatibilityOf,
  type DraftCheck,
  type DraftCompatibility,
  type DraftCompatibilityOptions,
  type DraftVerdict,
  draftParams,
} from './draft.js';
import { type IsthmusError, invalidField } from './errors.js';
import { Generation, GenerationStream } from './generation.js';
import type { ModelInfo } from './model-info.js';
import type { ChatMessage, ChatOptions, GenerateRequest } from './request-options.js';
import {
  COUNT_TOKENS,
  countOf,
  DETOKENIZE,
  type DetokenizeOptions,
  type Encoding,
  encodingOf,
  field,
  idsOf,
  inUtf16,
  type PiecesOptions,
  TOKENIZE,
  TOKENIZE_PIECES,
  type TokenizeOptions,
  textOf,
  wantsPieces,
} from './text.js';
import type { Value, WireMap } from './wire/decoder.js';
import { CALL_OPTIONS, camelKeys, snakeKeys } from './wire/fields.js';
import { errorFromWire, isMap, malformed } from './wire/messages.js';

export interface ChatTemplateOptions extends ChatOptions, CallOptions {
  /** Give token ids instead of text. */
  readonly tokenize?: boolean | undefined;
}

/** One result of a batch: the value, or the error of that item alone. */
export type BatchItem<T> = T | IsthmusError;

export interface UnloadOptions extends CallOptions {
  /** Leave memory at once, if nobody else has the model loaded and it is not pinned. */
  readonly evict?: boolean | undefined;
}

export interface UnloadResult {
  /** Nobody has the model loaded any more: the handle is no longer valid. */
  readonly unloaded: boolean;
  readonly references: number;
  /** The weights are still in memory, for the next load. */
  readonly resident: boolean;
}

/** The circuit breaker of a model. */
export interface CircuitSnapshot {
  readonly state: 'closed' | 'open' | 'half_open' | 'isolated' | (string & {});
  readonly generation: number;
  readonly calls: number;
  readonly failures: number;
  readonly slowCalls: number;
  readonly openedTimes: number;
  readonly retryAfterMs: number | null;
}

const NO_NAMES: ReadonlySet<string> = new Set();

export class Model implements AsyncDisposable {
  readonly info: ModelInfo;
  readonly #connection: Connection;
  readonly #credit: number;
  readonly #plainKeys = new Map<BatchOperation<never, unknown>, LaneKey>();

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
    return this.generateWith({}, request);
  }

  /** @internal Generate with params that count rather than those of the request. */
  generateWith(fixed: Params, request: GenerateRequest): Generation {
    const credit = request.credit ?? this.#credit;
    const stream = new GenerationStream(this.#connection, credit);
    try {
      const params = this.#params(Object.assign(snakeKeys(request), fixed));
      if (isObject(params.speculation)) params.speculation = this.#speculation(params.speculation);
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

  /** Have the model judge a draft: how many of its tokens it accepts, and the token after them. */
  checkDraft(check: DraftCheck, options?: CallOptions): Promise<DraftVerdict> {
    return this.#one(CHECK_DRAFT, draftParams(check), options);
  }

  checkDraftBatch(
    checks: readonly DraftCheck[],
    options?: CallOptions,
  ): Promise<BatchItem<DraftVerdict>[]> {
    const items = checks.map(draftParams);
    return this.#batch('batch_check_draft', { items }, CHECK_DRAFT.convert, options);
  }

  /** Whether another model can draft for this one, and whether speculation with it can pay here. */
  async checkDraftCompatibility(
    draft: Model,
    options?: DraftCompatibilityOptions,
  ): Promise<DraftCompatibility> {
    const params = this.#with({ draft_model: this.#handleOf(draft, 'draft_model') }, options);
    return this.#connection.call('check_draft_compatibility', params, compatibilityOf, options);
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

  /** Give the model back, behind the calls made before. Without references it stays in memory for
   * the next load until it is idle for long or its room is needed; with `evict` it leaves at once. */
  async unload(options: UnloadOptions = {}): Promise<UnloadResult> {
    const params = snakeKeys(options);
    return unloadOf(await this.#connection.unload(this.handle, params, options));
  }

  /** Isolate the model: its calls fail at once with CIRCUIT_OPEN, until it is `closed` again. */
  setCircuit(state: 'isolated' | 'closed', options?: CallOptions): Promise<CircuitSnapshot> {
    return this.#connection.call('set_circuit', this.#params({ state }), circuitOf, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unload();
  }

  #speculation(speculation: object): Record<string, unknown> {
    const params = snakeKeys(speculation, NO_NAMES);
    if (params.draft_model !== undefined) {
      params.draft_model = this.#handleOf(params.draft_model, 'speculation.draft_model');
    }
    return params;
  }

  #handleOf(model: unknown, field: string): string {
    return Model.handleOf(model, this.#connection, field);
  }

  /** @internal The handle of a model, which must be of the same runtime: in another one it names
   * another model, or none. */
  static handleOf(model: unknown, connection: Connection, field: string): string {
    if (isObject(model) && #connection in model && model.#connection === connection) {
      return model.handle;
    }
    throw invalidField(field, 'must be a Model that the same runtime has loaded');
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
    const key = options === undefined ? this.#plainKey(operation) : this.#key(operation, options);
    return this.#connection.callOne(operation, item, key, options);
  }

  #key(operation: BatchOperation<never, unknown>, options: CallOptions): LaneKey {
    const { model } = this.info;
    const { deadlineMs } = options;
    const shared = snakeKeys(options);
    const id = `${operation.method} ${model} ${deadlineMs} ${JSON.stringify(shared)}`;
    return { id, model, options: shared, deadlineMs };
  }

  /** The key of calls without options, which are the most, is made once. */
  #plainKey(operation: BatchOperation<never, unknown>): LaneKey {
    let key = this.#plainKeys.get(operation);
    if (key === undefined) {
      key = this.#key(operation, {});
      this.#plainKeys.set(operation, key);
    }
    return key;
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

function unloadOf(value: WireMap): UnloadResult {
  const { references, unloaded, resident } = value;
  return {
    unloaded: unloaded === true,
    references: typeof references === 'number' ? references : 0,
    resident: resident === true,
  };
}

function circuitOf(value: Value): CircuitSnapshot {
  if (isMap(value)) return camelKeys(value) as unknown as CircuitSnapshot;
  throw malformed('a circuit is no map');
}

function batchOf<T>(value: Value, convert: (value: Value) => T): BatchItem<T>[] {
  const results = field(value, 'results');
  if (!Array.isArray(results)) throw malformed('a batch has no results');
  return results.map((item) => {
    const error = field(item, 'error');
    return isMap(error) ? errorFromWire(error as WireMap) : convert(item);
  });
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
