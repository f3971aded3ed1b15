/**
 * Which Python runs the runtime.
 *
 * What was named explicitly (the option, ISTHMUS_PYTHON) is used or refused, never replaced by
 * something else. Otherwise the first usable one of the active environment, `./.venv`, uv and PATH
 * is taken. Each candidate is asked once per host process, and every verdict is kept for the error
 * and for the doctor.
 */

import { execFile } from 'node:child_process';
import { join, resolve } from 'node:path';
import { type PythonCandidate, PythonNotFoundError } from '../errors.js';
import { PROBE_TIMEOUT_MS, PYTHON_MINIMUM } from '../limits.js';

export interface LocateOptions {
  /** The caller's choice. */
  readonly python?: string | undefined;
  /** The folder the runtime will run in. */
  readonly cwd?: string | undefined;
  /** The environment the runtime will get. */
  readonly env: Record<string, string>;
}

export interface Located {
  readonly python: string;
  readonly candidates: readonly PythonCandidate[];
}

/** A path still to be tried. */
interface Suggestion {
  readonly source: string;
  readonly path: string;
}

const [MAJOR, MINOR] = PYTHON_MINIMUM;

/** Works on any Python 3, so that an old one can say that it is. */
const PROBE = `
import sys
sys.path = [p for p in sys.path if p]
import importlib.util as u, json
print(json.dumps([list(sys.version_info[:3]), sys.executable, u.find_spec("isthmus") is not None]))
`;

/** Find a usable Python. Throws a PythonNotFoundError with every candidate's verdict. */
export async function locatePython(options: LocateOptions): Promise<Located> {
  const candidates: PythonCandidate[] = [];
  const explicit = explicitSuggestion(options);
  const suggestions = explicit ? [explicit] : implicitSuggestions(options);
  for await (const suggestion of suggestions) {
    const candidate = await probe(suggestion, options);
    candidates.push(candidate);
    if (candidate.refused === undefined) return { python: candidate.path, candidates };
  }
  throw new PythonNotFoundError(describe(candidates, explicit !== undefined), candidates);
}

function explicitSuggestion({ python, env }: LocateOptions): Suggestion | undefined {
  if (python !== undefined) return { source: 'option python', path: python };
  if (env.ISTHMUS_PYTHON) return { source: 'ISTHMUS_PYTHON', path: env.ISTHMUS_PYTHON };
  return undefined;
}

async function* implicitSuggestions(options: LocateOptions): AsyncGenerator<Suggestion> {
  const { env } = options;
  const cwd = resolve(options.cwd ?? '.');
  if (env.VIRTUAL_ENV) yield { source: 'VIRTUAL_ENV', path: inEnvironment(env.VIRTUAL_ENV) };
  if (env.CONDA_PREFIX) {
    yield { source: 'CONDA_PREFIX', path: inEnvironment(env.CONDA_PREFIX, true) };
  }
  yield { source: './.venv', path: inEnvironment(join(cwd, '.venv')) };
  const uv = await run('uv', ['python', 'find'], options);
  if (uv.output) yield { source: 'uv python find', path: uv.output };
  yield { source: 'python3 on PATH', path: 'python3' };
  if (process.platform === 'win32') yield { source: 'python on PATH', path: 'python' };
}

function inEnvironment(folder: string, isConda = false): string {
  if (process.platform !== 'win32') return join(folder, 'bin', 'python');
  return isConda ? join(folder, 'python.exe') : join(folder, 'Scripts', 'python.exe');
}

const verdicts = new Map<string, Promise<PythonCandidate>>();

function probe(suggestion: Suggestion, options: LocateOptions): Promise<PythonCandidate> {
  const key = JSON.stringify([suggestion, options.cwd, options.env]);
  const known = verdicts.get(key);
  if (known !== undefined) return known;
  const verdict = ask(suggestion, options);
  verdicts.set(key, verdict);
  return verdict;
}

async function ask({ source, path }: Suggestion, options: LocateOptions): Promise<PythonCandidate> {
  const { output, problem } = await run(path, ['-c', PROBE], options);
  const answer = parseAnswer(output);
  if (problem !== undefined || answer === undefined) {
    return { source, path, refused: problem ?? 'it is no Python', version: undefined };
  }
  const { version, executable, hasIsthmus } = answer;
  const [major, minor] = version;
  const isOld = major < MAJOR || (major === MAJOR && minor < MINOR);
  const refused = isOld
    ? `it is Python ${version.join('.')}; ${MAJOR}.${MINOR} or newer is needed`
    : hasIsthmus
      ? undefined
      : `the package isthmus is not installed in it: ${executable} -m pip install isthmus`;
  return { source, path: executable, refused, version: version.join('.') };
}

interface Answer {
  readonly version: readonly [number, number, number];
  readonly executable: string;
  readonly hasIsthmus: boolean;
}

function parseAnswer(output: string): Answer | undefined {
  try {
    const [version, executable, hasIsthmus] = JSON.parse(output) as [
      [number, number, number],
      string,
      boolean,
    ];
    return { version, executable, hasIsthmus };
  } catch {
    return undefined;
  }
}

/** Run a program to its end; return its output, or why there is none. */
function run(
  program: string,
  args: readonly string[],
  { cwd, env }: LocateOptions,
): Promise<{ output: string; problem: string | undefined }> {
  const options = { env, timeout: PROBE_TIMEOUT_MS, killSignal: 'SIGKILL', windowsHide: true };
  return new Promise((settle) => {
    const where = cwd === undefined ? {} : { cwd };
    const child = execFile(
      program,
      [...args],
      { ...options, ...where, killSignal: 'SIGKILL' },
      (error, stdout, stderr) => {
        const problem = error === null ? undefined : reasonOf(error, stderr);
        settle({ output: error === null ? stdout.trim() : '', problem });
      },
    );
    child.stdin?.end();
  });
}

function reasonOf(error: Error & { code?: unknown; killed?: boolean }, stderr: string): string {
  if (error.code === 'ENOENT') return 'there is no such program';
  if (error.code === 'EACCES') return 'it may not be executed';
  if (error.killed) return `it did not answer within ${PROBE_TIMEOUT_MS} ms`;
  const lastLine = stderr.trim().split('\n').at(-1);
  return `it failed (${String(error.code ?? error.message)}): ${lastLine || 'without a message'}`;
}

function describe(candidates: readonly PythonCandidate[], isExplicit: boolean): string {
  const lines = candidates.map(({ source, path, refused }) => `  ${source} (${path}): ${refused}`);
  const fix = isExplicit
    ? 'Correct the option, or leave it out to have one looked for.'
    : 'Activate an environment that has isthmus, or name a Python in ISTHMUS_PYTHON.';
  return `no usable Python\n${lines.join('\n')}\n${fix} \`npx isthmus-doctor\` shows details.`;
}
