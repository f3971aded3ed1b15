/** What the runtime says about a loaded model. */

import type { Value } from './wire/decoder.js';
import { camelKeysDeep } from './wire/fields.js';
import { isMap, malformed } from './wire/messages.js';

export interface ModelInfo {
  /** The handle. */
  readonly model: string;
  readonly source: string;
  readonly path: string;
  readonly architecture: string;
  readonly parameters: number;
  readonly vocabSize: number;
  /** Null when unknown. */
  readonly contextLength: number | null;
  readonly dtype: string;
  readonly quantization: { readonly bits: number; readonly groupSize: number } | null;
  readonly weightBytes: number;
  readonly eosTokenIds: readonly number[];
  readonly hasChatTemplate: boolean;
  /** How many callers have it loaded. */
  readonly references: number;
  /** Whether it stays in memory without references. */
  readonly pinned: boolean;
  /** What it takes of the budget: weights, and room for its KV cache. */
  readonly bytes: number;
  readonly loadMs: number;
}

export function modelInfo(value: Value): ModelInfo {
  if (!isMap(value) || typeof value.model !== 'string') throw malformed('model info has no handle');
  return Object.freeze(camelKeysDeep(value)) as unknown as ModelInfo;
}
