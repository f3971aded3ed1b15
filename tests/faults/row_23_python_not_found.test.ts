/** Row 23: there is no Python, or what is there cannot be run. */

import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { createRuntime, type PythonNotFoundError } from '../../bridge/dist/index.js';
import { failure, temporaryFolder } from './support.js';

const NOTHING = { PATH: '', ISTHMUS_PYTHON: undefined, VIRTUAL_ENV: undefined };

function script(mode: number, text = '#!/bin/sh\nexit 0\n'): string {
  const path = join(temporaryFolder(), 'python');
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

test.each([
  ['does not exist', () => '/no/such/python', 'no such program'],
  ['may not be executed', () => script(0o644), 'may not be executed'],
  ['prints nothing', () => script(0o755), 'no Python'],
  ['fails', () => script(0o755, '#!/bin/sh\necho oh dear >&2; exit 9\n'), 'oh dear'],
  ['is of another kind', () => script(0o755, 'not a program'), ''],
  ['is a folder', () => temporaryFolder(), ''],
])('a Python that %s is named with its reason', async (_, path, reason) => {
  const python = path();
  const error = (await failure(createRuntime({ python }))) as PythonNotFoundError;
  expect(error.code).toBe('PYTHON_NOT_FOUND');
  expect(error.candidates).toHaveLength(1);
  expect(error.candidates[0]).toMatchObject({ path: python, source: 'option python' });
  expect(error.candidates[0]?.refused).toContain(reason);
  expect(error.message).toContain(python);
});

test('with nothing on PATH every candidate that was tried is listed', async () => {
  const options = { cwd: temporaryFolder(), env: NOTHING };
  const error = (await failure(createRuntime(options))) as PythonNotFoundError;
  expect(error.code).toBe('PYTHON_NOT_FOUND');
  const sources = error.candidates.map((candidate) => candidate.source);
  expect(sources).toEqual(expect.arrayContaining(['./.venv', 'python3 on PATH']));
  for (const candidate of error.candidates) expect(error.message).toContain(candidate.path);
});

test('a command that cannot be spawned is a failed start, although it never exits', async () => {
  const error = await failure(createRuntime({ command: ['/no/such/program'] }));
  expect(error.code).toBe('START_FAILED');
  expect(error.message).toContain('ENOENT');
});
