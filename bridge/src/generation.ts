/**
 * One generation, for both ways to use it: `for await` over its deltas, or `await` for its result.
 *
 * Iterated, credit follows the consumer; once the result is asked for, it follows arrival, and a
 * generation that is only awaited is never held back. A generation that nobody uses is stopped when
 * it is collected, and its failure raises nothing. Knows nothing of models or processes.
 */

import { StreamIterator, TokenStream, watchCollection } from './connection/token-stream.js';
import { attachPartial, type IsthmusError, type PartialGeneration } from './errors.js';
import {
  type GenerationResult,
  readLogprobs,
  resultOfEnd,
  type TokenLogprob,
} from './generation-result.js';
import { IdBuffer } from './id-buffer.js';
import type { Value } from './wire/decoder.js';
import { isMap, malformed } from './wire/messages.js';
import { tokenIds } from './wire/token-ids.js';

export interface GenerationDelta {
  /** Whole characters. Of a call of a tool nothing is shown, though its tokens are among `ids`. */
  readonly text: string;
  readonly ids: Uint32Array;
  readonly logprobs?: readonly TokenLogprob[];
}

/** The request behind a generation. It must not refer to the Generation: that one's collection is
 * what ends an unused request. */
export class GenerationStream extends TokenStream<GenerationDelta> {
  #text = '';
  readonly #ids = new IdBuffer();
  #logprobs: TokenLogprob[] | undefined;
  #promise: Promise<GenerationResult> | undefined;
  #resolve: ((result: GenerationResult) => void) | undefined;
  #reject: ((error: IsthmusError) => void) | undefined;
  #result: GenerationResult | undefined;
  #failure: IsthmusError | undefined;

  constructor(control: ConstructorParameters<typeof TokenStream>[0], window: number) {
    super(control, window, (payload) => [this.#collect(payload)]);
  }

  #collect(payload: Value): GenerationDelta {
    if (!isMap(payload) || typeof payload.text !== 'string') throw malformed('a delta has no text');
    const { text } = payload;
    const ids = tokenIds(payload.ids);
    this.#text += text;
    this.#ids.append(ids);
    if (!Array.isArray(payload.logprobs)) return { text, ids };
    const logprobs = readLogprobs(payload.logprobs);
    this.#logprobs ??= [];
    for (const logprob of logprobs) this.#logprobs.push(logprob);
    return { text, ids, logprobs };
  }

  get partial(): PartialGeneration {
    return { text: this.#text, ids: this.#ids.toArray(), completionTokens: this.#ids.length };
  }

  override succeed(value: Value): void {
    const end = isMap(value) ? value : {};
    const base = { text: this.#text, ids: this.#ids.toArray(), ...resultOfEnd(end) };
    this.#result = this.#logprobs === undefined ? base : { ...base, logprobs: this.#logprobs };
    super.succeed(value);
    this.#resolve?.(this.#result);
  }

  override fail(error: IsthmusError): void {
    attachPartial(error, this.partial);
    this.#failure = error;
    super.fail(error);
    this.#reject?.(error);
  }

  override cancelUnsent(): void {
    this.succeed({ finish_reason: 'cancelled' });
  }

  /** The result will say `cancelled`. */
  protected override stopProducer(): void {
    this.control.cancel(this);
  }

  /** Whoever waits for the result does not need the Generation itself. */
  override consumerCollected(): void {
    if (this.#promise === undefined) this.stop();
  }

  /** Cancel whoever waits. */
  cancel(): void {
    this.control.cancel(this);
  }

  result(): Promise<GenerationResult> {
    this.flow();
    this.#promise ??= this.#makePromise();
    return this.#promise;
  }

  #makePromise(): Promise<GenerationResult> {
    const promise = new Promise<GenerationResult>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    promise.catch(() => undefined);
    if (this.#result !== undefined) this.#resolve?.(this.#result);
    if (this.#failure !== undefined) this.#reject?.(this.#failure);
    return promise;
  }
}

export class Generation implements AsyncIterable<GenerationDelta>, PromiseLike<GenerationResult> {
  readonly #stream: GenerationStream;

  constructor(stream: GenerationStream) {
    this.#stream = stream;
    watchCollection(this, stream);
  }

  /** The result, also when the deltas have been iterated. Rejects with the error that ended it,
   * whose `partial` holds what was delivered. */
  get result(): Promise<GenerationResult> {
    return this.#stream.result();
  }

  then<TResult = GenerationResult, TError = never>(
    onFulfilled?: ((result: GenerationResult) => TResult | PromiseLike<TResult>) | null,
    onRejected?: ((error: unknown) => TError | PromiseLike<TError>) | null,
  ): Promise<TResult | TError> {
    return this.#stream.result().then(onFulfilled, onRejected);
  }

  /** Stop it. The result settles with `finishReason` `cancelled` and what was produced. */
  cancel(): void {
    this.#stream.cancel();
  }

  /** The deltas from here on. Leaving the loop early cancels the generation. */
  [Symbol.asyncIterator](): StreamIterator<GenerationDelta> {
    return new StreamIterator(this.#stream, this);
  }
}
