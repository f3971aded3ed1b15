/**
 * Which models this host has loaded, so that their handles outlive the process that gave them.
 *
 *      fresh ──process ends──► stale ──first use──► restoring ──► fresh
 *        ▲                       ▲                      │  └── refused: stale again, the callers are
 *        │                       └──────────────────────┘      told why
 *        └── loaded again ── lost ◄── process ends ─────┘
 *
 * For each handle: how it was loaded, how many references the host has, and how many processes
 * ended while calls of it ran. A stale handle is restored once for all who wait for it. A model
 * whose restoring ended the process is not restored by itself again. Twin:
 * `isthmus/host/registry.py`. Knows the connection only as something that loads and unloads.
 */

import { copyError, type IsthmusError, makeError } from '../errors.js';
import type { WireMap } from '../wire/decoder.js';
import { type Params, Request } from './request.js';

/** What a later load of the same model changes only when it says so. */
const POLICY = ['pin', 'idle_timeout_ms', 'kv_tokens'] as const;

type State = 'fresh' | 'stale' | 'restoring' | 'lost';

interface Entry {
  readonly handle: string;
  params: Params;
  references: number;
  /** Ends of a process while calls of the model ran. */
  crashes: number;
  state: State;
  /** Why it is lost. */
  error: IsthmusError | undefined;
}

/** Sends the load that restores a model, and tells how it ended; throws when it cannot be sent. */
export type Restore = (
  params: Params,
  onLoaded: () => void,
  onFailed: (error: IsthmusError) => void,
) => void;

/** The load of a model that calls wait for. */
export class Restoring extends Request {
  constructor(
    override readonly succeed: () => void,
    override readonly fail: (error: IsthmusError) => void,
  ) {
    super();
  }
}

/** What a call must do that names some models. */
export type Verdict = 'go' | 'wait' | IsthmusError;

export class ModelRegistry {
  /** Models that were restored. */
  restored = 0;
  readonly #entries = new Map<string, Entry>();
  readonly #restore: Restore;
  readonly #onChange: () => void;
  /** Entries that are not fresh. */
  #staleCount = 0;
  /** Whether the last process ended by a fault, and not because it was told to. */
  #hasCrashed = false;

  /** `onChange` is called when a model that calls wait for can be used, or cannot. */
  constructor(restore: Restore, onChange: () => void) {
    this.#restore = restore;
    this.#onChange = onChange;
  }

  /** Whether every handle can be used as it is. */
  get isFresh(): boolean {
    return this.#staleCount === 0;
  }

  /** Whether the model went with its process, and no process is asked to load it again. */
  isGone(handle: string): boolean {
    return this.#entries.get(handle)?.state === 'stale' || this.isLost(handle);
  }

  /** Whether the model is not restored by itself any more. */
  isLost(handle: string): boolean {
    return this.#entries.get(handle)?.state === 'lost';
  }

  /** A load succeeded: its caller has one more reference. */
  loaded(handle: string, asked: Params): void {
    const { replace: _, ...params } = asked;
    const entry = this.#entries.get(handle);
    if (entry === undefined) {
      const fresh = { handle, params, references: 1, crashes: 0, state: 'fresh', error: undefined };
      this.#entries.set(handle, fresh as Entry);
    } else {
      entry.references++;
      entry.params = { ...policyOf(entry.params), ...params };
      this.#become(entry, 'fresh');
    }
    this.#forgive(params);
  }

  /** The caller gave one reference back; return how many the host still has. */
  release(handle: string): number {
    const entry = this.#entries.get(handle);
    if (entry === undefined) return 0;
    entry.references--;
    if (entry.references > 0) return entry.references;
    this.#become(entry, 'fresh');
    this.#entries.delete(handle);
    return 0;
  }

  /** What `unload_model` answers for a model that went with its process. */
  unloadedHere(handle: string): WireMap {
    const references = Math.max((this.#entries.get(handle)?.references ?? 0) - 1, 0);
    return { unloaded: references === 0, references, resident: false };
  }

  /** What a call with these params must do. Begins to restore what it needs. */
  look(params: Params): Verdict {
    let verdict: Verdict = 'go';
    for (const handle of handlesOf(params)) {
      const entry = this.#entries.get(handle);
      if (entry === undefined || entry.state === 'fresh') continue;
      if (entry.state === 'lost') return copyError(entry.error as IsthmusError);
      const error = entry.state === 'stale' ? this.#begin(entry) : undefined;
      if (error !== undefined) return error;
      verdict = 'wait';
    }
    return verdict;
  }

  /** The process ended, by a fault or as it was told; `running` names a model for each of its calls
   * that ran. */
  ended(hasCrashed: boolean, running: Iterable<string>): void {
    this.#hasCrashed = hasCrashed;
    for (const entry of this.#entries.values()) {
      if (entry.state === 'fresh') this.#become(entry, 'stale');
    }
    for (const handle of hasCrashed ? new Set(running) : []) {
      const entry = this.#entries.get(handle);
      if (entry !== undefined) entry.crashes++;
    }
  }

  /** Send the load that restores a model; return why that cannot be done. */
  #begin(entry: Entry): IsthmusError | undefined {
    this.#become(entry, 'restoring');
    const { handle, references, crashes } = entry;
    const params = { ...entry.params, handle, references, prior_failures: crashes };
    try {
      this.#restore(
        params,
        () => this.#succeeded(entry),
        (error) => this.#failed(entry, error),
      );
      return undefined;
    } catch (error) {
      this.#become(entry, 'stale');
      return error as IsthmusError;
    }
  }

  #succeeded(entry: Entry): void {
    this.restored++;
    this.#become(entry, 'fresh');
    this.#onChange();
  }

  /** The callers that wait get the reason; the next one tries again, unless the load is deadly. */
  #failed(entry: Entry, error: IsthmusError): void {
    const hasEnded = error.code === 'RUNTIME_EXITED' || error.code === 'RUNTIME_UNRESPONSIVE';
    const isDeadly = hasEnded && this.#hasCrashed && error.details.sent === true;
    this.#become(entry, isDeadly ? 'lost' : 'stale');
    if (isDeadly) entry.error = deadly(entry, error);
    else if (!hasEnded) entry.error = error;
    this.#onChange();
  }

  /** Take the errors of loads that failed since the last time: for the calls that waited. */
  takeFailures(): Map<string, IsthmusError> {
    const failures = new Map<string, IsthmusError>();
    for (const entry of this.#entries.values()) {
      if (entry.error === undefined) continue;
      failures.set(entry.handle, entry.error);
      if (entry.state !== 'lost') entry.error = undefined;
    }
    return failures;
  }

  /** Someone loaded the model again by hand: its lost handles may be restored again. */
  #forgive(params: Params): void {
    for (const entry of this.#entries.values()) {
      if (entry.state === 'lost' && isSameModel(entry.params, params)) {
        this.#become(entry, 'stale');
      }
    }
  }

  #become(entry: Entry, state: State): void {
    const isKnown = this.#entries.get(entry.handle) === entry;
    if (isKnown) this.#staleCount += Number(state !== 'fresh') - Number(entry.state !== 'fresh');
    entry.state = state;
    entry.error = undefined;
  }
}

/** The handles that a call names. */
export function handlesOf(params: Params): string[] {
  const { model, draft_model: draft, replace, speculation } = params;
  const nested = (speculation as Params | null | undefined)?.draft_model;
  return [model, draft, replace, nested].filter((name) => typeof name === 'string');
}

function policyOf(params: Params): Params {
  return Object.fromEntries(POLICY.filter((name) => name in params).map((n) => [n, params[n]]));
}

function isSameModel(one: Params, other: Params): boolean {
  const names = ['source', 'revision', 'adapter_path'];
  return names.every((name) => one[name] === other[name]);
}

function deadly(entry: Entry, cause: IsthmusError): IsthmusError {
  const message =
    `loading ${String(entry.params.source)} again ended the runtime (${cause.message}), so it is ` +
    'not loaded by itself any more: load a smaller model, or call loadModel to try once more';
  return makeError('MODEL_LOAD_FAILED', message, {
    phase: 'load',
    details: { cause: 'crashed', model: entry.handle },
    cause,
  });
}
