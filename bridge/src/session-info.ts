/** What the runtime says of sessions: one of them, all of them, and what became of a call. */

import type { Value } from './wire/decoder.js';
import { camelKeys } from './wire/fields.js';
import { malformed, mapOf } from './wire/messages.js';

/** How a session's KV cache is kept on disk: `native` bit for bit, the others in less room. */
export type KvFormat = 'native' | 'q8' | 'k8v4' | 'q4';

export interface SessionInfo {
  readonly id: string;
  /** Whether it is in memory, on disk (`warm`), or nothing is kept of it (`cold`). */
  readonly state: 'hot' | 'warm' | 'cold' | (string & {});
  /** Tokens that are kept. */
  readonly tokens: number;
  /** Of them on disk. */
  readonly savedTokens: number;
  readonly memoryBytes: number;
  /** What it shares with other sessions counts fully. */
  readonly diskBytes: number;
  readonly kv: KvFormat | (string & {});
  /** Whether it stays when room is made, and whatever its age. */
  readonly pin: boolean;
  /** Whether a call is at work on it. */
  readonly busy: boolean;
  /** When it was last used, in seconds of Unix time. */
  readonly usedAt: number;
}

export interface SaveResult {
  /** All of it is on disk. */
  readonly saved: boolean;
  readonly tokens: number;
  readonly writtenBytes: number;
  /** Why it could not be saved; null when it was. */
  readonly reason: string | null;
}

export interface EvictResult {
  /** It left memory; false when it was not there, or cannot be saved. */
  readonly evicted: boolean;
  readonly freedBytes: number;
}

/** Counters of all sessions of a runtime, since its process began. */
export interface SessionStats {
  /** Null when nothing is kept on disk. */
  readonly directory: string | null;
  /** `reader` while another runtime writes the directory, `memory` while it cannot be used. */
  readonly mode: 'writer' | 'reader' | 'memory' | (string & {});
  readonly sessions: number;
  readonly hot: number;
  readonly hotBytes: number;
  readonly hotLimitBytes: number;
  readonly chunks: number;
  readonly diskBytes: number;
  readonly quotaBytes: number;
  readonly saves: number;
  readonly savedBytes: number;
  readonly saveFailures: number;
  /** Saves that the full queue had no room for. */
  readonly droppedSaves: number;
  readonly restores: number;
  readonly restoredBytes: number;
  readonly restoreFailures: number;
  /** Files that were put aside. */
  readonly corruptFiles: number;
  readonly evictedFiles: number;
  readonly expiredSessions: number;
}

export function sessionInfo(value: Value): SessionInfo {
  const info = mapOf(value);
  if (typeof info.id !== 'string') throw malformed('session info has no id');
  return Object.freeze(camelKeys(info)) as unknown as SessionInfo;
}

export function sessionInfos(value: Value): SessionInfo[] {
  const { sessions } = mapOf(value);
  if (!Array.isArray(sessions)) throw malformed('list_sessions gave no list');
  return sessions.map(sessionInfo);
}

export function saveResult(value: Value): SaveResult {
  return camelKeys(mapOf(value)) as unknown as SaveResult;
}

export function evictResult(value: Value): EvictResult {
  return camelKeys(mapOf(value)) as unknown as EvictResult;
}

export function sessionStats(value: Value): SessionStats {
  return camelKeys(mapOf(value)) as unknown as SessionStats;
}

export function wasDeleted(value: Value): boolean {
  return mapOf(value).deleted === true;
}
