/**
 * Text operations on a model's tokenizer: their options, their results, and how they are batched.
 */

import { type BatchOperation, lengthOf } from './connection/batch.js';
import type { CallOptions } from './connection/request.js';
import type { Value } from './wire/decoder.js';
import { isMap, malformed } from './wire/messages.js';
import { tokenIds } from './wire/token-ids.js';

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

export function field(value: Value, name: string): Value | undefined {
  return isMap(value) ? value[name] : undefined;
}

export const idsOf = (value: Value): Uint32Array => tokenIds(field(value, 'ids'));

export function encodingOf(value: Value): Encoding {
  const offsets = field(value, 'offsets');
  const tokens = field(value, 'tokens');
  return {
    ids: idsOf(value),
    ...(offsets === undefined ? {} : { offsets: tokenIds(offsets) }),
    ...(Array.isArray(tokens) ? { tokens: tokens as string[] } : {}),
  };
}

export function wantsPieces(options: Partial<PiecesOptions> | undefined): boolean {
  return options?.offsets === true || options?.tokens === true;
}

/** JavaScript's strings are sliced in UTF-16 code units. */
export function inUtf16(options: TokenizeOptions | undefined): TokenizeOptions {
  return { ...options, offsetUnit: 'utf16' } as TokenizeOptions;
}

export function textOf(value: Value): string {
  const text = field(value, 'text');
  if (typeof text === 'string') return text;
  throw malformed('a result has no text');
}

export function countOf(value: Value): number {
  const count = field(value, 'count');
  if (typeof count === 'number') return count;
  throw malformed('a result has no count');
}

export const TOKENIZE: BatchOperation<string, Uint32Array> = {
  method: 'tokenize',
  items: 'texts',
  item: 'text',
  size: lengthOf,
  convert: idsOf,
};

export const TOKENIZE_PIECES: BatchOperation<string, Encoding> = {
  ...TOKENIZE,
  convert: encodingOf,
};

export const COUNT_TOKENS: BatchOperation<string, number> = {
  ...TOKENIZE,
  method: 'count_tokens',
  convert: countOf,
};

export const DETOKENIZE: BatchOperation<Uint32Array | readonly number[], string> = {
  method: 'detokenize',
  items: 'ids',
  item: 'ids',
  size: (ids) => 4 * lengthOf(ids),
  convert: textOf,
};
