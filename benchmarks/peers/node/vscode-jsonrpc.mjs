/** vscode-jsonrpc, of the language servers, to python-lsp-jsonrpc; chunks are notifications. */

import {
  createMessageConnection,
  StreamMessageReader,
  StreamMessageWriter,
} from 'vscode-jsonrpc/node';
import { startPython } from './python.mjs';

export async function start(python) {
  const child = startPython(python, 'lsp_jsonrpc_peer.py');
  const connection = createMessageConnection(
    new StreamMessageReader(child.stdout),
    new StreamMessageWriter(child.stdin),
  );
  let onChunk;
  connection.onNotification('chunk', (index) => onChunk(index));
  connection.listen();
  return {
    echo: (text) => connection.sendRequest('echo', text),
    tokenize: (text) => connection.sendRequest('tokenize', text),
    stream: (count, take) => {
      onChunk = take;
      return connection.sendRequest('stream', count);
    },
    close: () => child.stdin.end(),
  };
}
