/**
 * HTTP over a Unix socket with connections kept alive: undici to uvicorn; a chunk is a line.
 *
 * Pieces of a chunked body may come together, so lines say where a chunk ends.
 */

import { Pool } from 'undici';
import { socketPath, startPython, untilListening } from './python.mjs';

const CONNECTIONS = 16;

export async function start(python) {
  const path = socketPath();
  const child = startPython(python, 'uvicorn_peer.py', path);
  await untilListening(path);
  const pool = new Pool('http://localhost', {
    socketPath: path,
    connections: CONNECTIONS,
  });

  const request = async (target, text) => {
    const { statusCode, body } = await pool.request({ path: target, method: 'POST', body: text });
    if (statusCode !== 200) throw new Error(`status ${statusCode}`);
    return body;
  };

  return {
    echo: async (text) => (await request('/echo', text)).text(),
    tokenize: async (text) => (await request('/tokenize', text)).json(),
    stream: async (count, take) => {
      let rest = '';
      for await (const piece of await request('/stream', String(count))) {
        const lines = (rest + piece).split('\n');
        rest = lines.pop();
        for (const line of lines) take(Number(line));
      }
    },
    close: async () => {
      await pool.destroy();
      child.stdin.end();
    },
  };
}
