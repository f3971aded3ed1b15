/**
 * What the Node side of the fault tests shares: runtimes that end with their test, children that
 * break the protocol, and waiting with a deadline.
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, onTestFinished } from 'vitest';
import {
  createRuntime,
  IsthmusError,
  type Model,
  type Runtime,
  type RuntimeOptions,
} from '../../bridge/dist/index.js';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export const ROOT = here('../..');
export const PYTHON = process.env.ISTHMUS_PYTHON ?? here('../../.venv/bin/python');
export const FAULTY = here('../fixtures/faulty_runtime.py');
export const FAKE = here('./fake_child.py');

/** Where the package lies when it is not installed. */
export const ENVIRONMENT = { PYTHONPATH: process.env.PYTHONPATH };

/** For tests of one process's end: no other one follows. */
export const ONCE = { restart: false } as const;

/** How long a test waits for what must come: never reached when all is well. */
const DEADLINE_MS = 20_000;
const SHUTDOWN = { graceMs: 3_000, termMs: 500, killMs: 2_000 };

type Words = [string, ...string[]];

export const faultyCommand = (...args: string[]): Words => [PYTHON, FAULTY, 'runtime', ...args];
export const fakeCommand = (...args: string[]): Words => [PYTHON, FAKE, ...args];

/** Start a runtime; whatever the test did to it, its process is gone afterwards. */
export async function start(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await createRuntime({
    shutdown: SHUTDOWN,
    ...options,
    env: { ...ENVIRONMENT, ...options.env },
  });
  onTestFinished(async () => {
    await runtime.close();
    kill(runtime.hello.pid);
  });
  return runtime;
}

export const startFaulty = (options: RuntimeOptions = {}, ...args: string[]): Promise<Runtime> =>
  start({ command: faultyCommand(...args), ...options });

/** What the tests of one file share when none of them harms it. */
export interface Shared {
  runtime: Runtime;
  /** The model that repeats the last token of its prompt for ever. */
  model: Model;
}

/** Start one runtime with a model for all tests of a file. */
export function shareFaulty(): Shared {
  const shared = {} as Shared;
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-faults-'));
  beforeAll(async () => {
    const options = { command: faultyCommand(), env: ENVIRONMENT, shutdown: SHUTDOWN };
    shared.runtime = await createRuntime(options);
    shared.model = await shared.runtime.loadModel(writeChain(folder));
  });
  afterAll(async () => {
    await shared.runtime?.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return shared;
}

export const startFake = (scenario: string, argument = '', options: RuntimeOptions = {}) =>
  start({ command: fakeCommand(scenario, argument), ...options });

/** The error that a promise rejects with; fails when it does not. */
export async function failure(promise: PromiseLike<unknown>): Promise<IsthmusError> {
  const error = await Promise.resolve(promise).then(
    (value) => expect.fail(`resolved with ${String(value)}`),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(IsthmusError);
  return error as IsthmusError;
}

/** Whether a process runs; one that waits to be reaped does not. */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return !'ZX'.includes(stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3));
  } catch {
    return false;
  }
}

export function kill(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Look at `condition` until it holds; return how long that took, in milliseconds. */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  what: string,
  deadlineMs = DEADLINE_MS,
): Promise<number> {
  const began = performance.now();
  while (!(await condition())) {
    if (performance.now() - began > deadlineMs) expect.fail(`${what}: not in ${deadlineMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return performance.now() - began;
}

/** A folder that is removed after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-faults-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Run a line of Python beside the test helpers; return what it prints. */
export function python(code: string, ...args: string[]): string {
  return execFileSync(PYTHON, ['-c', code, ...args], { cwd: ROOT, encoding: 'utf8' });
}

/** Write the model that repeats the last token of its prompt for ever. */
export function writeChain(folder: string): string {
  const code =
    'import sys, pathlib; from tests.faults.small_models import write_chain; ' +
    'write_chain(pathlib.Path(sys.argv[1]), {})';
  python(code, join(folder, 'chain'));
  return join(folder, 'chain');
}

/** Write the model whose prefill takes long. */
export function writeDeep(folder: string): string {
  const code =
    'import sys, pathlib; from tests.faults.small_models import write_deep; ' +
    'write_deep(pathlib.Path(sys.argv[1]))';
  python(code, join(folder, 'deep'));
  return join(folder, 'deep');
}

/** Wait until the engine has imported its libraries and has nothing to do. */
export async function engineIsReady(runtime: Runtime): Promise<void> {
  await runtime.call('fault_block_engine', { seconds: 0 });
}

/** Wait until the engine has nothing to do. */
export function engineIsIdle(runtime: Runtime): Promise<number> {
  return waitUntil(async () => (await runtime.ping()).engine.state === 'idle', 'the engine idles');
}

/** Wait until the engine is at work, and a moment later still, and again. */
export function engineIsAtWork(runtime: Runtime): Promise<number> {
  return waitUntil(async () => {
    for (let look = 0; look < 5; look++) {
      if ((await runtime.ping()).engine.state !== 'busy') return false;
    }
    return true;
  }, 'the engine is at work');
}

/** A frame of the wire as hex. */
export function frameHex(payload: string): string {
  return (payload.length / 2).toString(16).padStart(8, '0') + payload;
}
