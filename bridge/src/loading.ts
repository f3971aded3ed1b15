/**
 * Loading a model: its options, its steps, and the reference that a load gives.
 *
 * The reference of a load that succeeded after its caller had given up goes back at once.
 */

import type { Connection } from './connection/connection.js';
import { Call, type CallOptions, type Params } from './connection/request.js';
import { Model } from './model.js';
import { type ModelInfo, modelInfo } from './model-info.js';
import { callUser } from './process/runtime-process.js';
import type { Value, WireMap } from './wire/decoder.js';
import { camelKeys, snakeKeys } from './wire/fields.js';

/** One step of loading a model. */
export interface LoadProgress {
  readonly stage: 'resolve' | 'download' | 'verify' | 'load' | 'warm_up' | (string & {});
  readonly done: number;
  readonly total: number | null;
  readonly unit: string;
}

export interface LoadModelOptions extends CallOptions {
  readonly revision?: string | undefined;
  readonly adapterPath?: string | undefined;
  readonly trustRemoteCode?: boolean | undefined;
  readonly localFilesOnly?: boolean | undefined;
  /** True: the model is never evicted, even without references; false: it may be again. */
  readonly pin?: boolean | undefined;
  /** How long the model stays in memory once nobody has it loaded; 0: not at all. */
  readonly idleTimeoutMs?: number | undefined;
  /** A model that is given back as part of this load, and whose room may be used for it. */
  readonly replace?: Model | undefined;
  /** Tokens of KV cache that room is kept for. */
  readonly kvTokens?: number | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

class LoadCall extends Call<Model> {
  constructor(
    convert: (value: Value) => Model,
    resolve: (model: Model) => void,
    reject: (error: unknown) => void,
    override readonly succeedLate: (value: Value) => void,
  ) {
    super(convert, resolve, reject);
  }
}

/** Load a model, and remember how, so that it can be loaded again. */
export function load(
  connection: Connection,
  source: string,
  options: LoadModelOptions,
  credit: number,
): Promise<Model> {
  return new Promise((resolve, reject) => {
    const { replace, onProgress, ...others } = options;
    const params: Record<string, unknown> = { ...snakeKeys(others), source };
    const replaced =
      replace === undefined ? undefined : Model.handleOf(replace, connection, 'replace');
    // A lost model is in no process: it is given back here alone.
    if (replaced !== undefined && !connection.models.isLost(replaced)) params.replace = replaced;
    const note = (value: Value): ModelInfo => {
      const info = modelInfo(value);
      connection.models.loaded(info.model, params as Params);
      if (replaced !== undefined) connection.models.release(replaced);
      return info;
    };
    const convert = (value: Value): Model => new Model(connection, note(value), credit);
    const giveBack = (value: Value): void => {
      connection.unload(note(value).model, {}).catch(() => undefined);
    };
    const fail = (error: unknown): void => {
      const { details } = error as { details?: Record<string, unknown> };
      if (details?.replaced === true && replaced !== undefined) connection.models.release(replaced);
      reject(error);
    };
    const call = new LoadCall(convert, resolve, fail, giveBack);
    if (onProgress !== undefined) {
      call.onProgress = (progress) => callUser(() => onProgress(loadProgress(progress)));
    }
    connection.send(call, 'load_model', params, options);
  });
}

function loadProgress(progress: WireMap): LoadProgress {
  const { request: _, ...step } = camelKeys(progress);
  return step as unknown as LoadProgress;
}
