/**
 * One session: a conversation whose KV cache the runtime keeps, in memory or on disk.
 *
 * Its options travel with every call, so that a runtime that was restarted, or has forgotten the
 * session, needs no new `open`. Nothing of its state is kept here but the last info that came. Which
 * calls of it run at once is the runtime's to decide.
 */

import type { Connection } from './connection/connection.js';
import type { CallOptions, Params } from './connection/request.js';
import type { Generation } from './generation.js';
import type { Model } from './model.js';
import type { GenerateRequest } from './request-options.js';
import {
  type EvictResult,
  evictResult,
  type KvFormat,
  type SaveResult,
  type SessionInfo,
  saveResult,
  sessionInfo,
  wasDeleted,
} from './session-info.js';
import type { Value } from './wire/decoder.js';

export interface SessionOptions {
  /** As it is unless given; at first `native`. */
  readonly kv?: KvFormat | undefined;
  /** True: it leaves neither memory nor disk to make room, nor by age. As it is unless given. */
  readonly pin?: boolean | undefined;
  /** It is found with the same tenant only, and no other one ever reuses what is in it. */
  readonly tenant?: string | undefined;
  /** What becomes of a call while another is at work on the session: it waits unless given, or
   * fails with SESSION_BUSY. */
  readonly whenBusy?: 'queue' | 'fail' | undefined;
}

/** A session by the names of the wire. */
export interface SessionParams extends Params {
  readonly id: string;
}

/** What calls say that neither begin a session nor change how it is kept. */
const NAMING: ReadonlySet<string> = new Set(['id', 'tenant', 'when_busy']);

export class Session {
  readonly model: Model;
  readonly #connection: Connection;
  readonly #params: SessionParams;
  readonly #name: Params;
  #info: SessionInfo;

  /** @internal Use `runtime.sessions.open`. */
  constructor(connection: Connection, model: Model, params: SessionParams, info: SessionInfo) {
    const naming = Object.entries(params).filter(([name]) => NAMING.has(name));
    this.#connection = connection;
    this.model = model;
    this.#params = Object.freeze({ ...params });
    this.#name = Object.freeze(Object.fromEntries(naming));
    this.#info = info;
  }

  get id(): string {
    return this.#params.id;
  }

  /** What the runtime last said of it: when it was opened, refreshed, forked or truncated. */
  get info(): SessionInfo {
    return this.#info;
  }

  /** Generate text from the whole conversation: of it, what is kept already is not evaluated again.
   * The prompt and what is generated are kept afterwards, also when it is cancelled. */
  generate(request: GenerateRequest): Generation {
    return this.model.generateWith({ session: this.#params }, request);
  }

  /** Wait until all of it is on disk. */
  save(options?: CallOptions): Promise<SaveResult> {
    return this.#call('save_session', {}, saveResult, options);
  }

  /** Save it, and free its memory. */
  evict(options?: CallOptions): Promise<EvictResult> {
    return this.#call('evict_session', {}, evictResult, options);
  }

  /** Make another session that goes on from where this one is, with the same options; refused when
   * `to` exists. */
  async fork(to: string, options?: CallOptions): Promise<Session> {
    const info = await this.#call('fork_session', { to }, sessionInfo, options);
    return new Session(this.#connection, this.model, { ...this.#params, id: to }, info);
  }

  /** Forget all but the first `tokens` tokens. */
  async truncate(tokens: number, options?: CallOptions): Promise<SessionInfo> {
    this.#info = await this.#call('truncate_session', { tokens }, sessionInfo, options);
    return this.#info;
  }

  /** Delete it from memory and disk, but for what it shares with others; false when there was none.
   * The next `generate` begins it anew. */
  delete(options?: CallOptions): Promise<boolean> {
    return this.#call('delete_session', {}, wasDeleted, options);
  }

  /** Ask how it is. */
  async refresh(options?: CallOptions): Promise<SessionInfo> {
    this.#info = await openSession(this.#connection, this.model.handle, this.#params, options);
    return this.#info;
  }

  #call<T>(
    method: string,
    params: Params,
    convert: (value: Value) => T,
    options: CallOptions | undefined,
  ): Promise<T> {
    return this.#connection.call(method, { session: this.#name, ...params }, convert, options);
  }
}

/** Begin a session, or ask how it is when there is one. */
export function openSession(
  connection: Connection,
  model: string,
  session: SessionParams,
  options: CallOptions | undefined,
): Promise<SessionInfo> {
  return connection.call('open_session', { model, session }, sessionInfo, options);
}
