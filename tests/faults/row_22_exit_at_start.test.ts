/** Row 22: the runtime ends before its hello, or cannot import what it needs. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createRuntime, type StartError } from '../../bridge/dist/index.js';
import { ENVIRONMENT, failure, fakeCommand, PYTHON, start, temporaryFolder } from './support.js';

/** The promise is 2 s. */
const FAILS_WITHIN_MS = 6_000;

async function startFailure(command: [string, ...string[]], path = ''): Promise<StartError> {
  const began = performance.now();
  const env = { PYTHONPATH: [path, ENVIRONMENT.PYTHONPATH ?? ''].join(':') };
  const error = await failure(createRuntime({ command, env }));
  expect(performance.now() - began).toBeLessThan(FAILS_WITHIN_MS);
  expect(error.code).toBe('START_FAILED');
  expect(error.message).toContain('isthmus-doctor');
  return error as StartError;
}

const MODULE: [string, ...string[]] = [PYTHON, '-P', '-m', 'isthmus', 'runtime'];

/** A folder with a module that cannot be imported, to be put in front of the real one. */
function brokenModule(name: string): string {
  const folder = temporaryFolder();
  mkdirSync(join(folder, name));
  writeFileSync(join(folder, name, '__init__.py'), 'raise ImportError("broken environment")\n');
  return folder;
}

test('an exit code and the last lines of standard error are told', async () => {
  const error = await startFailure(fakeCommand('exit', '3'));
  expect(error.message).toContain('code 3');
  expect(error.stderrTail).toBe('the reason stands here\n');
  expect(error.message).toContain('the reason stands here');
});

test('a Python without the package says so', async () => {
  const error = await startFailure([PYTHON, '-I', '-S', '-m', 'isthmus', 'runtime']);
  expect(error.stderrTail).toContain('No module named isthmus');
});

test('a broken dependency shows its ImportError', async () => {
  const error = await startFailure(MODULE, brokenModule('msgpack'));
  expect(error.stderrTail).toContain('ImportError: broken environment');
});

test('an unknown option shows the usage', async () => {
  const error = await startFailure([...MODULE, '--no-such-option']);
  expect(error.stderrTail).toContain('unrecognized arguments: --no-such-option');
});

test('without mlx the runtime starts, and what needs it fails at once with the reason', async () => {
  const path = [brokenModule('mlx'), ENVIRONMENT.PYTHONPATH ?? ''].join(':');
  const runtime = await start({ command: MODULE, env: { PYTHONPATH: path }, heartbeat: false });
  const error = await failure(runtime.loadModel('default'));
  expect(error.code).toBe('ENGINE_DEAD');
  expect(error.message).toContain('broken environment');
  expect(await runtime.echo('no model needed')).toBe('no model needed');
  expect((await runtime.ping()).engine.state).toBe('dead');
});
