/**
 * The sessions of a runtime: opened for a model, listed, deleted by name, counted.
 *
 * What is done with one of them is `Session`'s. Values travel as they are and are checked by the
 * runtime, which refuses an option that it does not know.
 */

import type { Connection } from './connection/connection.js';
import type { CallOptions } from './connection/request.js';
import { Model } from './model.js';
import { openSession, Session, type SessionOptions, type SessionParams } from './session.js';
import {
  type SessionInfo,
  type SessionStats,
  sessionInfos,
  sessionStats,
  wasDeleted,
} from './session-info.js';
import { snakeKeys } from './wire/fields.js';

export interface OpenSessionOptions extends SessionOptions, CallOptions {
  /** A model of the same runtime. With another one than before, nothing that was kept is reused. */
  readonly model: Model;
}

export interface TenantOptions extends CallOptions {
  /** Whose; nobody's unless given. */
  readonly tenant?: string | undefined;
}

export class Sessions {
  readonly #connection: Connection;

  /** @internal Use `runtime.sessions`. */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Open a session by its name: it begins with this, or goes on from what is kept of it. */
  async open(id: string, options: OpenSessionOptions): Promise<Session> {
    const { model, ...others } = options;
    const handle = Model.handleOf(model, this.#connection, 'model');
    const params: SessionParams = { ...snakeKeys(others), id };
    const info = await openSession(this.#connection, handle, params, options);
    return new Session(this.#connection, model, params, info);
  }

  /** The sessions of a tenant, or those without one, the latest used first. */
  list(options: TenantOptions = {}): Promise<SessionInfo[]> {
    return this.#connection.call('list_sessions', snakeKeys(options), sessionInfos, options);
  }

  /** Delete a session by its name; false when there was none. */
  delete(id: string, options: TenantOptions = {}): Promise<boolean> {
    const session: SessionParams = { ...snakeKeys(options), id };
    return this.#connection.call('delete_session', { session }, wasDeleted, options);
  }

  stats(options?: CallOptions): Promise<SessionStats> {
    return this.#connection.call('session_stats', {}, sessionStats, options);
  }
}
