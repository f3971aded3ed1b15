/**
 * What the Node subjects share: the command loop, and the measuring of a `call(payload)`.
 *
 * A subject gives operations by name; each line of JSON on standard input runs one and is answered
 * with one line. `call` takes a payload and resolves with what came back, which is compared.
 */

import { createInterface } from 'node:readline';

const DISTINCT = 16;

/** Answer commands until the input ends, then `close`. */
export async function serve(operations, close) {
  for await (const line of createInterface({ input: process.stdin })) {
    const { op, ...parameters } = JSON.parse(line);
    let answer;
    try {
      answer = await operations[op](parameters);
    } catch (error) {
      answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer ?? {})}\n`);
  }
  await close();
  process.exit(0);
}

/**
 * The operations that every subject with a `call` has. `kinds` maps a kind of payload to a call;
 * `onDifference` is told of each answer that is not what was sent.
 */
export function callOperations(kinds, onDifference = refuse) {
  const check = (answer, payload) => {
    if (!isSame(answer, payload)) onDifference(answer, payload);
  };
  return {
    lone: ({ kind, bytes, calls }) => lone(kinds[kind], check, payloads(kind, bytes), calls),
    saturate: ({ kind, bytes, depth, ms }) =>
      saturate(kinds[kind], check, payloads(kind, bytes), depth, ms),
    cost: ({ kind, bytes, depth, calls }) =>
      cost(kinds[kind], check, payloads(kind, bytes), depth, calls),
  };
}

/** Several payloads of one size, so that an answer to another request is noticed. */
export function payloads(kind, bytes) {
  return Array.from({ length: DISTINCT }, (_, index) => {
    const text = String.fromCharCode(97 + index).repeat(bytes);
    return kind === 'bytes' ? Buffer.from(text) : text;
  });
}

/** Whether an answer is what was sent; bytes by length and both ends, so that it costs nothing. */
export function isSame(answer, payload) {
  if (typeof payload === 'string') return answer === payload;
  const last = payload.length - 1;
  return answer.length === last + 1 && answer[0] === payload[0] && answer[last] === payload[last];
}

function refuse() {
  throw new Error('an answer is not what was sent');
}

/** Call one at a time; microseconds. */
async function lone(call, check, sent, calls) {
  const times = new Float64Array(calls);
  for (let index = 0; index < calls; index += 1) {
    const payload = sent[index % DISTINCT];
    const start = performance.now();
    const answer = await call(payload);
    times[index] = (performance.now() - start) * 1_000;
    check(answer, payload);
  }
  return percentiles(times);
}

/** Keep `depth` calls in flight for `ms`; requests a second. */
async function saturate(call, check, sent, depth, ms) {
  const start = performance.now();
  const end = start + ms;
  let begun = 0;
  const worker = async () => {
    while (performance.now() < end) {
      const payload = sent[begun++ % DISTINCT];
      check(await call(payload), payload);
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
  return { requests: begun, rps: (begun / (performance.now() - start)) * 1_000 };
}

/** Make `calls` calls with `depth` in flight; processor microseconds of this process. */
async function cost(call, check, sent, depth, calls) {
  const before = process.cpuUsage();
  let begun = 0;
  const worker = async () => {
    while (begun < calls) {
      const payload = sent[begun++ % DISTINCT];
      check(await call(payload), payload);
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
  const { user, system } = process.cpuUsage(before);
  return { requests: begun, cpuUs: user + system };
}

/** Let go what the command line of JSON left behind, so that its collection is not measured; Node
 * must have been started with `--expose-gc`. */
export function tidy() {
  globalThis.gc({ type: 'minor' });
}

/** p50 and p99 of a list of times. */
export function percentiles(times) {
  const sorted = Float64Array.from(times).sort();
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
  return { p50: at(0.5), p99: at(0.99), max: at(1), n: sorted.length };
}
