import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { PythonNotFoundError } from '../../../bridge/src/errors.js';
import { locatePython } from '../../../bridge/src/process/locate-python.js';
import { failure } from '../support.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'isthmus-locate-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
});

/** A Python that answers as told; each call of it is counted. */
function fakePython(path: string, version = [3, 12, 1], hasIsthmus = true): string {
  const file = join(folder, path);
  const answer = JSON.stringify([version, file, hasIsthmus]);
  return script(path, `echo x >> '${file}.calls'; echo '${answer}'`);
}

function script(path: string, body: string): string {
  const file = join(folder, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `#!/bin/sh\n${body}\n`);
  chmodSync(file, 0o755);
  return file;
}

/** Only what the test put there is on PATH. */
const env = (extra: Record<string, string> = {}): Record<string, string> => ({
  PATH: join(folder, 'path'),
  ...extra,
});

async function refusals(options: Parameters<typeof locatePython>[0]): Promise<string[]> {
  const error = await failure(locatePython(options));
  expect(error).toBeInstanceOf(PythonNotFoundError);
  const { candidates } = error as PythonNotFoundError;
  return candidates.map(({ source, refused }) => `${source}: ${refused}`);
}

describe('what is named explicitly', () => {
  test('is used before everything else', async () => {
    const python = fakePython('mine/python');
    fakePython('path/python3');
    expect((await locatePython({ python, env: env() })).python).toBe(python);
    const named = env({ ISTHMUS_PYTHON: python, VIRTUAL_ENV: join(folder, 'other') });
    expect((await locatePython({ env: named })).python).toBe(python);
  });

  test('is never replaced by something else', async () => {
    fakePython('path/python3');
    expect(await refusals({ python: join(folder, 'none'), env: env() })).toEqual([
      'option python: there is no such program',
    ]);
    const old = fakePython('old/python', [3, 9, 2]);
    const [refused] = await refusals({ env: env({ ISTHMUS_PYTHON: old }) });
    expect(refused).toMatch(/ISTHMUS_PYTHON: it is Python 3\.9\.2; 3\.11 or newer/);
  });
});

describe('without one', () => {
  test('the first usable of the usual places is taken', async () => {
    const places = {
      VIRTUAL_ENV: fakePython('venv/bin/python'),
      CONDA_PREFIX: fakePython('conda/bin/python'),
      './.venv': fakePython('.venv/bin/python'),
      'uv python find': fakePython('uv-managed/python'),
      'python3 on PATH': fakePython('path/python3'),
    };
    script('path/uv', `echo '${places['uv python find']}'`);
    const all = env({ VIRTUAL_ENV: join(folder, 'venv'), CONDA_PREFIX: join(folder, 'conda') });
    for (const [source, python] of Object.entries(places)) {
      const located = await locatePython({ cwd: folder, env: { ...all, ROUND: source } });
      expect(located.python).toBe(python);
      expect(located.candidates.at(-1)).toMatchObject({ source, refused: undefined });
      rmSync(python);
    }
  });

  test('the error lists every candidate with its reason', async () => {
    fakePython('.venv/bin/python', [3, 12, 0], false);
    script('path/python3', 'echo "broken pipe dream" >&2; exit 9');
    const reasons = await refusals({ cwd: folder, env: env() });
    expect(reasons[0]).toMatch(/^\.\/\.venv: the package isthmus is not installed.*pip install/);
    expect(reasons[1]).toMatch(/^python3 on PATH: it failed \(9\): broken pipe dream/);
  });

  test('a file that may not be executed is refused as that', async () => {
    const file = join(folder, '.venv/bin/python');
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, '#!/bin/sh\n');
    chmodSync(file, 0o644);
    expect((await refusals({ cwd: folder, env: env() }))[0]).toBe(
      './.venv: it may not be executed',
    );
  });

  test('a program that answers with something else is refused', async () => {
    script('path/python3', 'echo hello');
    expect((await refusals({ cwd: folder, env: env() })).at(-1)).toMatch(/it is no Python/);
  });
});

test('a candidate is asked once', async () => {
  const python = fakePython('once/python');
  await Promise.all([locatePython({ python, env: env() }), locatePython({ python, env: env() })]);
  const { readFileSync } = await import('node:fs');
  expect(readFileSync(`${python}.calls`, 'utf8')).toBe('x\n');
});
