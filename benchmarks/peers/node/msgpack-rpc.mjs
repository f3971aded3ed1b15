/**
 * msgpack-rpc as Neovim speaks it, to pynvim's session; a transport is the Node side's.
 *
 * The client objects above these transports serve an editor; remote calls pass straight through.
 * Chunks are notifications.
 */

import { startPython } from './python.mjs';

/** Start pynvim and attach the transport to it. */
export function startOn(transport, python) {
  const child = startPython(python, 'pynvim_peer.py');
  transport.attach(child.stdin, child.stdout, null);
  let onChunk;
  transport.on('notification', (_, [index]) => onChunk(index));

  const request = (method, parameter) =>
    new Promise((resolve, reject) => {
      transport.request(method, [parameter], (error, answer) => {
        if (error) reject(new Error(String(error)));
        else resolve(answer);
      });
    });

  return {
    echo: (text) => request('echo', text),
    tokenize: (text) => request('tokenize', text),
    stream: (count, take) => {
      onChunk = take;
      return request('stream', count);
    },
    close: () => child.stdin.end(),
  };
}
