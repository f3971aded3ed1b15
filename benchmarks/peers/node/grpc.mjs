/** gRPC over a Unix socket: @grpc/grpc-js to grpcio on asyncio; chunks are a server's stream. */

import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { script, socketPath, startPython, untilListening } from './python.mjs';

export async function start(python) {
  const path = socketPath();
  const child = startPython(python, 'grpc_peer.py', `unix:${path}`);
  await untilListening(path);
  // Without `defaults` a field that is 0 would be missing.
  const messages = loadSync(script('peer.proto'), { defaults: true });
  const { Peer } = loadPackageDefinition(messages).peers;
  const client = new Peer(`unix:${path}`, credentials.createInsecure());

  const request = (method, parameter) =>
    new Promise((resolve, reject) => {
      client[method](parameter, (error, answer) => {
        if (error === null) resolve(answer);
        else reject(error);
      });
    });

  return {
    echo: async (text) => (await request('echo', { text })).text,
    tokenize: async (text) => (await request('tokenize', { text })).ids,
    stream: (count, take) =>
      new Promise((resolve, reject) => {
        const chunks = client.stream({ count });
        chunks.on('data', ({ index }) => take(index));
        chunks.on('end', resolve);
        chunks.on('error', reject);
      }),
    close: () => {
      client.close();
      child.stdin.end();
    },
  };
}
