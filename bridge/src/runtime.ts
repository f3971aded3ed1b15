/**
 * The runtime as its user sees it: loaded models, a few calls that need none, and its end.
 *
 * Maps names between the API and the wire and leaves the rest to the layers below.
 */

import type { Connection } from './connection/connection.js';
import type { CallOptions } from './connection/request.js';
import { StreamIterator, TokenStream, watchCollection } from './connection/token-stream.js';
import type { ExitReport } from './errors.js';
import { type Health, type RuntimeHealth, type RuntimeStats, runtimeHealth } from './health.js';
import { type LoadModelOptions, load } from './loading.js';
import type { Model } from './model.js';
import { type ModelInfo, modelInfo } from './model-info.js';
import { childEnvironment } from './process/environment.js';
import type { LifeState } from './process/life.js';
import { locatePython } from './process/locate-python.js';
import type { Command } from './process/spawn.js';
import { Supervisor } from './process/supervisor.js';
import { sessionArguments } from './session-store-options.js';
import { Sessions } from './sessions.js';
import { type RuntimeOptions, type Settings, settingsOf } from './settings.js';
import type { Value } from './wire/decoder.js';
import { camelKeysDeep } from './wire/fields.js';
import { malformed, mapOf } from './wire/messages.js';

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
  /** Faults can be injected. */
  readonly faults?: boolean;
}

export interface StreamOptions extends CallOptions {
  /** Items the runtime may send ahead of the consumer. */
  readonly credit?: number | undefined;
}

export class Runtime implements AsyncDisposable {
  /** Conversations whose KV caches are kept. */
  readonly sessions: Sessions;
  readonly #supervisor: Supervisor;
  readonly #connection: Connection;
  readonly #credit: number;

  /** @internal Use `createRuntime`. */
  constructor(supervisor: Supervisor, settings: Settings) {
    this.#supervisor = supervisor;
    this.#connection = supervisor.connection;
    this.#credit = settings.credit;
    this.sessions = new Sessions(supervisor.connection);
  }

  /** What the newest process said of itself. */
  get hello(): RuntimeHello {
    return camelKeysDeep(this.#supervisor.hello) as unknown as RuntimeHello;
  }

  /** Where the runtime is in its life, over all of its processes. */
  get state(): LifeState {
    return this.#supervisor.state;
  }

  /** The id of the newest process that was spawned; behind a wrapper it is not the runtime's own. */
  get pid(): number | undefined {
    return this.#supervisor.pid;
  }

  /** The last 64 KiB of the newest process's standard error. */
  get stderr(): string {
    return this.#supervisor.stderrTail;
  }

  /** Resolves when the runtime has ended for good: it was closed, or its process ended and is not
   * to be restarted. Never rejects. */
  get closed(): Promise<ExitReport> {
    return this.#supervisor.closed;
  }

  /** Counters of what was dropped, and the bytes that wait to be sent. */
  get counters(): { droppedReplies: number; unknownEvents: number; queuedBytes: number } {
    const { droppedReplies, unknownEvents, queuedBytes } = this.#connection;
    return { droppedReplies, unknownEvents, queuedBytes };
  }

  /** Load a model: a folder, a Hugging Face id, or the one that comes with Isthmus. The Model goes
   * on being usable when the runtime is restarted: it is loaded again at its next use. */
  loadModel(source = 'default', options: LoadModelOptions = {}): Promise<Model> {
    return load(this.#connection, source, options, this.#credit);
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

  /** How the runtime is. Answers in every state, and does not wait for a restart. */
  async health(): Promise<Health> {
    const { runtime, ...known } = await this.#supervisor.health();
    return { ...known, runtime: runtime === null ? null : runtimeHealth(runtime) };
  }

  /** What the runtime says of itself, past every queue. Rejects while there is none to ask. */
  async ping(): Promise<RuntimeHealth> {
    return runtimeHealth(await this.#connection.ping());
  }

  /** The runtime's counters, by their own names; under `calls` what this host sent of calls that may
   * share frames, by operation, model and options; under `supervision` what kept it going. */
  async stats(options?: CallOptions): Promise<RuntimeStats> {
    const counters = await this.#connection.call('stats', {}, mapOf, options);
    const calls = this.#connection.laneStats;
    return { ...counters, calls, supervision: this.#supervisor.counters };
  }

  /** Make the runtime misbehave at a named point; only one that was started with faults can. */
  async injectFault(spec: string, options?: CallOptions): Promise<void> {
    await this.#connection.call('inject_fault', { spec }, identity, options);
  }

  /** Take all faults out again. */
  async clearFaults(options?: CallOptions): Promise<void> {
    await this.#connection.call('clear_faults', {}, identity, options);
  }

  /** Call a method by its name on the wire, with params as they travel. */
  call(
    method: string,
    params: Readonly<Record<string, unknown>> = {},
    options?: CallOptions,
  ): Promise<Value> {
    return this.#connection.call(method, params, identity, options);
  }

  /** Start the runtime anew: its process gets time for what is in flight, calls made meanwhile wait,
   * and models are loaded again at their next use. Also brings one back that was given up. */
  restart(): Promise<void> {
    return this.#supervisor.restart();
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
  const sessions = sessionArguments(options.sessions);
  const env = childEnvironment(process.env, options.env);
  const runtime = options.command ?? (await defaultCommand(options, env));
  const faults = (options.faults ?? []).flatMap((spec) => ['--fault', spec]);
  const command: Command = [...runtime, ...sessions, ...faults];
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

function arrayOf(payload: Value, count: number): readonly Value[] {
  if (Array.isArray(payload) && payload.length === count) return payload;
  throw malformed('a delta does not hold the items it counts');
}

function modelInfos(value: Value): ModelInfo[] {
  const { models } = mapOf(value);
  if (!Array.isArray(models)) throw malformed('list_models gave no list');
  return models.map(modelInfo);
}
