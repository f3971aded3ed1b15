/**
 * A peer as a subject: `node subject.mjs PEER.mjs PYTHON TOKENIZER`.
 *
 * A peer's module exports `start(python)`, which resolves to `{ echo, tokenize, stream, close }`:
 * `echo(text)` and `tokenize(text)` resolve to the answer, and `stream(count, take)` calls `take`
 * with each of the chunks 0, 1, 2 and so on, and resolves after the last. Every peer is asked the
 * same here; wrong and missing answers are counted, and none is waited for without an end.
 */

import { callOperations, percentiles, serve } from '../../ipc/driver.mjs';
import { failure } from './python.mjs';

const ANSWER_LIMIT_MS = 20_000;

const [, , module, python, tokenizer] = process.argv;
// Read by python/service.py; a peer that is in this process has no command line.
process.env.PEER_TOKENIZER = tokenizer;
// It would make Python write each line in two pieces.
delete process.env.PYTHONUNBUFFERED;

let peer;
let errors = 0;
const onDifference = () => {
  errors += 1;
};

async function ready() {
  const { start } = await import(`./${module}`);
  peer = await start(python);
}

/** Tokenize one text after the other; microseconds. */
async function tokenizeLone({ texts, ids }) {
  const times = new Float64Array(texts.length);
  for (const [index, text] of texts.entries()) {
    const start = performance.now();
    const answer = await peer.tokenize(text);
    times[index] = (performance.now() - start) * 1_000;
    compare(answer, ids[index]);
  }
  return percentiles(times);
}

/** Tokenize all of them at once, each with a call of its own; milliseconds. */
async function tokenizeAll({ texts, ids }) {
  const start = performance.now();
  const answers = await Promise.all(texts.map((text) => peer.tokenize(text)));
  const ms = performance.now() - start;
  for (const [index, answer] of answers.entries()) compare(answer, ids[index]);
  return { ms };
}

function compare(answer, ids) {
  const isSame = answer?.length === ids.length && ids.every((id, index) => id === answer[index]);
  if (!isSame) onDifference();
}

/** Take `count` chunks, `times` times; microseconds a chunk. */
async function stream({ count, times }) {
  const perChunk = new Float64Array(times);
  for (let run = 0; run < times; run += 1) {
    let expected = 0;
    const take = (index) => {
      if (index !== expected) onDifference();
      expected += 1;
    };
    const start = performance.now();
    await peer.stream(count, take);
    perChunk[run] = ((performance.now() - start) * 1_000) / count;
    errors += Math.abs(count - expected);
  }
  return percentiles(perChunk);
}

/** Run an operation to its end, its limit, or that of Python; add the errors to its answer. */
function bounded(operation) {
  return async (parameters) => {
    errors = 0;
    let timer;
    const limit = new Promise((_, reject) => {
      const reason = `no answer within ${ANSWER_LIMIT_MS / 1_000} s`;
      timer = setTimeout(() => reject(new Error(reason)), ANSWER_LIMIT_MS);
    });
    try {
      const answer = await Promise.race([operation(parameters), failure, limit]);
      return { ...answer, errors };
    } catch (error) {
      return { error: String(error?.message ?? error) };
    } finally {
      clearTimeout(timer);
    }
  };
}

const calls = callOperations({ text: (payload) => peer.echo(payload) }, onDifference);
const operations = { ready, ...calls, tokenizeLone, tokenizeAll, stream };
const limited = Object.entries(operations).map(([name, run]) => [name, bounded(run)]);

await serve(Object.fromEntries(limited), () => peer?.close());
