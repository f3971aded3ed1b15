/**
 * Where a runtime keeps its sessions and how much of them: the option `sessions` of
 * `createRuntime`, and the arguments of `isthmus runtime` that it becomes.
 *
 * What is not given is left to the runtime's defaults.
 */

import { invalidField } from './errors.js';

export interface SessionStoreOptions {
  /** The folder that sessions are saved in; false: they are kept in memory only. */
  readonly dir?: string | false | undefined;
  /** The most that saved sessions may take. */
  readonly diskBytes?: number | undefined;
  /** The most that sessions in memory may take. */
  readonly memoryBytes?: number | undefined;
  /** What must stay free on the disk. */
  readonly freeDiskBytes?: number | undefined;
  /** How long a session that is not used is kept. */
  readonly ttlMs?: number | undefined;
  /** Have what is saved survive a crash of the machine, not of the runtime alone. */
  readonly fsync?: boolean | undefined;
}

/** One option on the command line. */
interface Row {
  readonly wanted: string;
  /** Undefined when the value is refused. */
  readonly toArguments: (value: unknown) => readonly string[] | undefined;
}

/** How the command line says that there is no folder; a folder cannot be called this. */
const NO_FOLDER = 'none';

const ROWS: Readonly<Record<keyof SessionStoreOptions, Row>> = {
  dir: {
    wanted: 'must be the path of a folder, or false for none',
    toArguments: (value) => {
      if (value === false) return ['--session-dir', NO_FOLDER];
      const isPath = typeof value === 'string' && value !== '' && value !== NO_FOLDER;
      return isPath ? ['--session-dir', value] : undefined;
    },
  },
  diskBytes: bytes('--session-disk-bytes'),
  memoryBytes: bytes('--session-memory-bytes'),
  freeDiskBytes: bytes('--session-free-disk-bytes'),
  ttlMs: {
    wanted: 'must be a number from 0',
    toArguments: (value) =>
      isFrom0(value) ? ['--session-ttl-s', String(value / 1_000)] : undefined,
  },
  fsync: {
    wanted: 'must be true or false',
    toArguments: (value) => {
      if (typeof value !== 'boolean') return undefined;
      return value ? ['--session-fsync'] : [];
    },
  },
};

function bytes(name: string): Row {
  return {
    wanted: 'must be a whole number from 0',
    toArguments: (value) =>
      isFrom0(value) && Number.isSafeInteger(value) ? [name, String(value)] : undefined,
  };
}

function isFrom0(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

/** Check the options and write them as arguments. */
export function sessionArguments(options: SessionStoreOptions = {}): string[] {
  if (typeof options !== 'object' || options === null) {
    throw invalidField('sessions', 'must be an object');
  }
  return Object.entries(options).flatMap(([name, value]) => {
    const field = `sessions.${name}`;
    if (!Object.hasOwn(ROWS, name)) throw invalidField(field, 'is no option');
    if (value === undefined) return [];
    const { wanted, toArguments } = ROWS[name as keyof SessionStoreOptions];
    const words = toArguments(value);
    if (words === undefined) throw invalidField(field, wanted);
    return words;
  });
}
