/**
 * The runtime as its user sees it: loaded models, a few calls that need none, and its end.
 *
 * Maps names between the API and the wire and leaves the rest to the layers below.
 */

import type { Connection } from './connection/connection.js';
import type { LaneStats } from './connection/lane-stats.js';
import type { CallOptions } from './connection/request.js';
import { StreamIterator, TokenStream, watchCollection } from './connection/token-stream.js';
import type { ExitReport } from './errors.js';
import { Model } from './model.js';
import { type ModelInfo, modelInfo } from './model-info.js';
import { childEnvironment } from './process/environment.js';
import { locatePython } from './process/locate-python.js';
import type { Command } from './process/spawn.js';
import { callUser, Supervisor } from './process/supervisor.js';
import { type RuntimeOptions, type Settings, settingsOf } from './settings.js';
import type { Value, WireMap } from './wire/decoder.js';
import { camelKeys, camelKeysDeep, snakeKeys } from './wire/fields.js';
import { isMap, malformed } from './wire/messages.js';

/** What the runtime said of itself when it started. */
export interface RuntimeHello {
  readonly protocol: number;
  /** Its version. */
  readonly runtime: string;
  readonly pid: number;
  readonly python: string;
  readonly platform: string;
  readonly codec: string;
  readonly limits: Readonly<Record<string, number>>;
  readonly methods: readonly string[];
  /** The BLAS put in front of mlx on Linux. */
  readonly blas?: { readonly name: string; readonly path: string | null } | null;
}

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
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
}

export interface StreamOptions extends CallOptions {
  /** Items the runtime may send ahead of the consumer. */
  readonly credit?: number | undefined;
}

export interface RuntimeHealth {
  readonly loopLagMs: number;
  readonly loopLagMaxMs: number;
  readonly engine: {
    readonly state: 'idle' | 'busy' | 'starting' | 'dead' | (string & {});
    readonly progressAgeMs: number | null;
  };
  readonly inFlight: number;
  readonly uptimeMs: number;
  readonly rssBytes: number;
}

/** Counters of both ends. */
export interface RuntimeStats {
  readonly [counter: string]: unknown;
  readonly calls: Readonly<Record<string, LaneStats>>;
}

export class Runtime implements AsyncDisposable {
  readonly hello: RuntimeHello;
  readonly #supervisor: Supervisor;
  readonly #connection: Connection;
  readonly #credit: number;

  /** @internal Use `createRuntime`. */
  constructor(supervisor: Supervisor, settings: Settings) {
    this.#supervisor = supervisor;
    this.#connection = supervisor.connection;
    this.#credit = settings.credit;
    this.hello = camelKeysDeep(supervisor.hello) as unknown as RuntimeHello;
  }

  /** The id of the process that was spawned; behind a wrapper it is not the runtime's own. */
  get pid(): number | undefined {
    return this.#supervisor.pid;
  }

  /** The last 64 KiB of the runtime's standard error. */
  get stderr(): string {
    return this.#supervisor.stderrTail;
  }

  /** Resolves when the process has ended, for whatever reason. Never rejects. */
  get closed(): Promise<ExitReport> {
    return this.#supervisor.closed;
  }

  /** Counters of what was dropped, and the bytes that wait to be sent. */
  get counters(): { droppedReplies: number; unknownEvents: number; queuedBytes: number } {
    const { droppedReplies, unknownEvents, queuedBytes } = this.#connection;
    return { droppedReplies, unknownEvents, queuedBytes };
  }

  /** Load a model: a folder, a Hugging Face id, or the one that comes with Isthmus. */
  loadModel(source = 'default', options: LoadModelOptions = {}): Promise<Model> {
    const { onProgress } = options;
    return this.#connection.call(
      'load_model',
      { ...snakeKeys(options), source },
      (value) => new Model(this.#connection, modelInfo(value), this.#credit),
      options,
      onProgress && ((progress) => callUser(() => onProgress(loadProgress(progress)))),
    );
  }

  listModels(options?: CallOptions): Promise<ModelInfo[]> {
    return this.#connection.call('list_models', {}, modelInfos, options);
  }

  /** Send a value there and back. */
  echo(data: unknown, options?: CallOptions): Promise<Value> {
    return this.#connection.call('echo', { data }, identity, options);
  }

  /** Stream `count` times `data`, or the numbers from 0 when it is left out. */
  streamEcho(count: number, data?: unknown, options: StreamOptions = {}): StreamIterator<Value> {
    const credit = options.credit ?? this.#credit;
    const stream = new TokenStream<Value>(this.#connection, credit, arrayOf);
    this.#connection.send(stream, 'stream_echo', { count, data }, options, credit);
    const iterator = new StreamIterator(stream);
    watchCollection(iterator, stream);
    return iterator;
  }

  /** The runtime's health, asked for as an ordinary request. */
  health(options?: CallOptions): Promise<RuntimeHealth> {
    return this.#connection.call('health', {}, health, options);
  }

  /** The runtime's health, past every queue. */
  async ping(): Promise<RuntimeHealth> {
    return health(await this.#connection.ping());
  }

  /** The runtime's counters, by their own names; and under `calls` what this host sent of calls
   * that may share frames, by operation, model and options. */
  async stats(options?: CallOptions): Promise<RuntimeStats> {
    const counters = await this.#connection.call('stats', {}, mapOf, options);
    return { ...counters, calls: this.#connection.laneStats };
  }

  /** Call a method by its name on the wire, with params as they travel. */
  call(
    method: string,
    params: Readonly<Record<string, unknown>> = {},
    options?: CallOptions,
  ): Promise<Value> {
    return this.#connection.call(method, params, identity, options);
  }

  /** End the runtime: it gets time for what is in flight, and is then made to go. Idempotent. */
  close(): Promise<ExitReport> {
    return this.#supervisor.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Start a runtime. Rejects with a PythonNotFoundError, StartError or ProtocolError, and leaves no
 * process behind when it does. */
export async function createRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  const settings = settingsOf(options);
  const env = childEnvironment(process.env, options.env);
  const command = options.command ?? (await defaultCommand(options, env));
  const supervisor = await Supervisor.start({ ...settings, command, env });
  return new Runtime(supervisor, settings);
}

async function defaultCommand(
  options: RuntimeOptions,
  env: Record<string, string>,
): Promise<Command> {
  const { python } = await locatePython({ python: options.python, cwd: options.cwd, env });
  return [python, '-P', '-m', 'isthmus', 'runtime', ...(options.runtimeArgs ?? [])];
}

const identity = (value: Value): Value => value;

function mapOf(value: Value): WireMap {
  if (isMap(value)) return value;
  throw malformed('a result that must be a map is none');
}

function arrayOf(payload: Value, count: number): readonly Value[] {
  if (Array.isArray(payload) && payload.length === count) return payload;
  throw malformed('a delta does not hold the items it counts');
}

function modelInfos(value: Value): ModelInfo[] {
  const { models } = mapOf(value);
  if (!Array.isArray(models)) throw malformed('list_models gave no list');
  return models.map(modelInfo);
}

function health(value: Value): RuntimeHealth {
  return camelKeysDeep(mapOf(value)) as unknown as RuntimeHealth;
}

function loadProgress(progress: WireMap): LoadProgress {
  const { request: _, ...step } = camelKeys(progress);
  return step as unknown as LoadProgress;
}
