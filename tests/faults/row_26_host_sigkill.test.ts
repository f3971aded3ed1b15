/** Row 26: the host is killed, whatever the runtime is doing. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { killHost, startHost } from './hosts.js';
import { faultyCommand, writeChain, writeDeep } from './support.js';

/** The promise is 1 s. */
const GONE_WITHIN_MS = 3_000;

const WRAPPERS: Record<string, (command: string[]) => string[]> = {
  'no wrapper': (command) => command,
  'sh that execs': (command) => ['sh', '-c', 'exec "$@"', 'sh', ...command],
  'sh that stays': (command) => ['sh', '-c', '"$@"; true', 'sh', ...command],
};

let folder: string;
let models: Record<string, string>;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'isthmus-faults-'));
  const deep = writeDeep(folder);
  models = { loading: deep, prefill: deep, decode: writeChain(folder) };
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const STATES = ['idle', 'loading', 'prefill', 'decode', 'engine busy'];
/** To exec leaves the runtime itself as the child. */
const STATES_BEHIND_EXEC = ['idle', 'decode'];

describe.each(Object.entries(WRAPPERS))('with %s', (name, wrap) => {
  test.each(name === 'sh that execs' ? STATES_BEHIND_EXEC : STATES)(
    'a runtime that is %s is gone',
    async (state) => {
      const host = startHost({
        command: wrap(faultyCommand()),
        state,
        ...(models[state] === undefined ? {} : { model: models[state] }),
      });
      const { pid } = await host.line();
      expect(await killHost(host, pid as number)).toBeLessThan(GONE_WITHIN_MS);
    },
  );
});

test.each(['no wrapper', 'sh that execs'])(
  'with %s a runtime whose interpreter lock is held by native code is gone',
  async (wrapper) => {
    const command = WRAPPERS[wrapper]?.(faultyCommand()) ?? [];
    const host = startHost({ command, state: 'interpreter lock held' });
    const { pid } = await host.line();
    expect(await killHost(host, pid as number)).toBeLessThan(GONE_WITHIN_MS);
  },
);
