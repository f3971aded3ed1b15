/**
 * python-shell: lines of JSON through standard input and output.
 *
 * It has messages but no calls. An id says which answer is whose, as in every other peer;
 * python-shell-in-order.mjs does without.
 */

import { PythonShell } from 'python-shell';
import { answersById } from './answers.mjs';
import { script, watch } from './python.mjs';

/** Start python-shell with a Python program of ours. */
export function startShell(python, program) {
  const shell = new PythonShell(script(program), {
    pythonPath: python,
    mode: 'json',
  });
  watch(shell.childProcess);
  return shell;
}

export async function start(python) {
  const shell = startShell(python, 'python_shell_peer.py');
  const { calls, onAnswer } = answersById((message) => shell.send(message));
  shell.on('message', onAnswer);
  return { ...calls, close: () => shell.kill() };
}
