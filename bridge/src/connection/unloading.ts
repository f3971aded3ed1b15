/**
 * A reference to a model on its way back.
 *
 * The registry forgets it when the runtime has, whether or not the caller still waits, and when it
 * went with a process. Twin: `Unloading` of `isthmus/host/loading.py`.
 */

import { type IsthmusError, RuntimeExitedError } from '../errors.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { isMap } from '../wire/messages.js';
import type { ModelRegistry } from './model-registry.js';
import { Request } from './request.js';

/** The caller stopped waiting: what becomes of the reference is not known yet. */
const GIVEN_UP: ReadonlySet<string> = new Set(['CANCELLED', 'DEADLINE_EXCEEDED']);

export class Unloading extends Request {
  readonly #models: ModelRegistry;
  readonly #handle: string;
  readonly #resolve: (result: WireMap) => void;
  readonly #reject: (error: IsthmusError) => void;

  constructor(
    models: ModelRegistry,
    handle: string,
    resolve: (result: WireMap) => void,
    reject: (error: IsthmusError) => void,
  ) {
    super();
    this.#models = models;
    this.#handle = handle;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  override succeed(value: Value): void {
    this.#models.release(this.#handle);
    this.#resolve(isMap(value) ? value : {});
  }

  override succeedLate(): void {
    this.#models.release(this.#handle);
  }

  override fail(error: IsthmusError): void {
    const hasGone = error instanceof RuntimeExitedError || this.#models.isGone(this.#handle);
    if (hasGone && !GIVEN_UP.has(error.code)) return this.succeedHere();
    if (error.code === 'MODEL_NOT_LOADED') this.#models.release(this.#handle);
    this.#reject(error);
  }

  /** Give back what is in no process. */
  succeedHere(): void {
    this.succeed(this.#models.unloadedHere(this.#handle));
  }
}
