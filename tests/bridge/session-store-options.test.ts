import { expect, test } from 'vitest';
import { createRuntime } from '../../bridge/src/runtime.js';
import {
  type SessionStoreOptions,
  sessionArguments,
} from '../../bridge/src/session-store-options.js';
import { failure, here } from './support.js';

const COMMAND = [process.execPath, here('./fixtures/peer.mjs'), 'says-its-arguments'] as const;

test('each option becomes an argument, and what is not said none', () => {
  expect(sessionArguments()).toEqual([]);
  expect(sessionArguments({ dir: undefined, diskBytes: undefined, fsync: false })).toEqual([]);
  const options = {
    ...{ dir: '/var/sessions', diskBytes: 2 ** 40, memoryBytes: 0, freeDiskBytes: 5 },
    ...{ ttlMs: 1_500, fsync: true },
  };
  expect(sessionArguments(options)).toEqual([
    ...['--session-dir', '/var/sessions', '--session-disk-bytes', '1099511627776'],
    ...['--session-memory-bytes', '0', '--session-free-disk-bytes', '5'],
    ...['--session-ttl-s', '1.5', '--session-fsync'],
  ]);
});

test('no folder at all is said by false', () => {
  expect(sessionArguments({ dir: false })).toEqual(['--session-dir', 'none']);
});

test.each<[string, unknown]>([
  ['dir', ''],
  ['dir', true],
  ['dir', null],
  ['dir', 'none'],
  ['diskBytes', -1],
  ['diskBytes', 1.5],
  ['diskBytes', 2 ** 60],
  ['memoryBytes', Number.NaN],
  ['freeDiskBytes', '5'],
  ['ttlMs', -0.1],
  ['ttlMs', Number.POSITIVE_INFINITY],
  ['fsync', 1],
  ['folder', '/var/sessions'],
  ['toString', 1],
])('a wrong `%s`, %j, is refused by name, and nothing is started', async (name, value) => {
  const sessions = { [name]: value } as SessionStoreOptions;
  const command = ['/no/such/program'] as const;
  expect(await failure(createRuntime({ command, sessions }))).toMatchObject({
    name: 'InvalidRequestError',
    details: { field: `sessions.${name}` },
  });
});

test.each([false, null, 'none'])('no options at all, but %j, is refused', async (sessions) => {
  expect(await failure(() => sessionArguments(sessions as SessionStoreOptions))).toMatchObject({
    name: 'InvalidRequestError',
    details: { field: 'sessions' },
  });
});

test('the arguments go to the runtime, behind a command of its user too', async () => {
  const sessions = { dir: false, ttlMs: 60_000 } as const;
  const runtime = await createRuntime({ command: COMMAND, sessions, faults: ['x:crash'] });
  const { stderrTail } = await runtime.close();
  const words = ['--session-dir', 'none', '--session-ttl-s', '60', '--fault', 'x:crash'];
  expect(JSON.parse(stderrTail)).toEqual(words);
});
