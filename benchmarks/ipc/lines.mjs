/** A client as one would write it first: lines of JSON, an id a request, a map of promises. */

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { callOperations, serve, tidy } from './driver.mjs';

// It would make Python write each line in two pieces.
delete process.env.PYTHONUNBUFFERED;

const [, , python, ...script] = process.argv;
const child = spawn(python, script, { stdio: ['pipe', 'pipe', 'inherit'] });
const pending = new Map();
let nextId = 0;

createInterface({ input: child.stdout }).on('line', (line) => {
  const { id, result } = JSON.parse(line);
  const resolve = pending.get(id);
  pending.delete(id);
  resolve(result);
});

function request(method, params) {
  return new Promise((resolve) => {
    const id = nextId++;
    pending.set(id, resolve);
    child.stdin.write(`${JSON.stringify({ id, method, params })}\n`);
  });
}

const kinds = {
  text: (data) => request('echo', { data }),
  // What came back is checked once, in `ready`; the loop compares what was sent.
  tokenize: (text) => request('tokenize', { text }).then((ids) => (ids.length > 0 ? text : '')),
};

await serve(
  {
    ...callOperations(kinds),
    ready: () => ({ child: child.pid }),
    all: async ({ batches }) => {
      tidy();
      const ms = [];
      for (const { texts } of batches) {
        const start = performance.now();
        const answers = await Promise.all(texts.map((text) => request('tokenize', { text })));
        ms.push(performance.now() - start);
        if (answers.some((ids) => !(ids.length > 0))) throw new Error('a text has no ids');
      }
      return { ms };
    },
    ids: async ({ text }) => ({ ids: await request('tokenize', { text }) }),
  },
  () => child.stdin.end(),
);
