/**
 * python-shell without ids: its Python program answers in the order of the requests, so that a
 * queue of who waits is enough. The least that can be done; one missing answer shifts all others.
 */

import { startShell } from './python-shell.mjs';

export async function start(python) {
  const shell = startShell(python, 'python_shell_in_order_peer.py');
  /** What takes the next message and says whether that was its last. */
  const waiting = [];
  shell.on('message', (answer) => {
    if (waiting[0](answer)) waiting.shift();
  });

  const request = (method, parameter) =>
    new Promise((resolve) => {
      waiting.push((answer) => {
        resolve(answer);
        return true;
      });
      shell.send([method, parameter]);
    });

  return {
    echo: (text) => request('echo', text),
    tokenize: (text) => request('tokenize', text),
    stream: (count, take) =>
      new Promise((resolve) => {
        let left = count;
        waiting.push((index) => {
          take(index);
          left -= 1;
          if (left === 0) resolve();
          return left === 0;
        });
        shell.send(['stream', count]);
      }),
    close: () => shell.kill(),
  };
}
