/**
 * node-calls-python: Python inside this process, each call on a thread of libuv's pool.
 *
 * It has no generators. Python can call a function of ours for each chunk or we can call Python for
 * each; the latter is what its asynchronous calls are made for.
 */

import { execFileSync } from 'node:child_process';
import { dirname } from 'node:path';
import { script } from './python.mjs';

export async function start(python) {
  const { interpreter } = await import('node-calls-python');
  const site = 'import site; print(site.getsitepackages()[0])';
  interpreter.addImportPath(execFileSync(python, ['-c', site]).toString().trim());
  const path = script('node_calls_python_peer.py');
  interpreter.addImportPath(dirname(path));
  const module = await interpreter.import(path);
  return {
    echo: (text) => interpreter.call(module, 'echo', text),
    tokenize: (text) => interpreter.call(module, 'tokenize', text),
    stream: async (count, take) => {
      await interpreter.call(module, 'begin', count);
      for (let index = 0; index < count; index += 1) {
        take(await interpreter.call(module, 'next_chunk'));
      }
    },
    close: () => {},
  };
}
