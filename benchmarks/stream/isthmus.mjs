/** Isthmus with several streams at once: how fast they are, and what it answers meanwhile. */

import { createRuntime } from '../../bridge/dist/index.js';
import { serve } from '../ipc/driver.mjs';

const [, , python] = process.argv;
const runtime = await createRuntime({ python, env: process.env });
const models = new Map();

async function load({ source }) {
  models.set(source, await runtime.loadModel(source));
  return {};
}

/** A stream for each question. */
function begin(model, { questions, maxTokens, credit }) {
  return questions.map((content) =>
    model.generate({
      messages: [{ role: 'user', content }],
      maxTokens,
      ignoreEos: true,
      credit,
    }),
  );
}

async function read(generation) {
  let tokens = 0;
  for await (const { ids } of generation) tokens += ids.length;
  return tokens;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Read until told to stop, with a rest after each delta; what is left is cancelled. */
async function readSlowly(generation, ms, isOver) {
  let tokens = 0;
  for await (const { ids } of generation) {
    tokens += ids.length;
    await pause(ms);
    if (isOver()) break;
  }
  return tokens;
}

/** All streams but the last are read at once; the last one is read slowly where `slowMs` says so.
 * Tokens a second of the fast ones. */
async function together({ source, slowMs, ...rest }) {
  const generations = begin(models.get(source), rest);
  const last = generations.pop();
  let isOver = false;
  const start = performance.now();
  const slow = slowMs === undefined ? read(last) : readSlowly(last, slowMs, () => isOver);
  const counts = await Promise.all(generations.map(read));
  const ms = performance.now() - start;
  isOver = true;
  const slowTokens = await slow;
  const tokens = counts.reduce((sum, count) => sum + count, 0);
  return { tokensPerS: (tokens / ms) * 1_000, slowTokens };
}

/** Lone calls of new texts, `everyMs` apart, while all streams decode; the milliseconds each took.
 * They begin when every stream has begun, and end when the first one has ended. */
async function beside({ source, call, everyMs, ...rest }) {
  const model = models.get(source);
  const calls = { echo: (text) => runtime.echo(text), tokenize: (text) => model.tokenize(text) };
  const streams = begin(model, rest).map((generation) => generation[Symbol.asyncIterator]());
  await Promise.all(streams.map((deltas) => deltas.next()));
  await runtime.ping(); // the longest lag it tells is that since it was asked last
  let areAllDecoding = true;
  const reading = streams.map(async (deltas) => {
    while (!(await deltas.next()).done);
    areAllDecoding = false;
  });
  const waits = [];
  for (let due = performance.now(); areAllDecoding; due += everyMs) {
    await pause(Math.max(due - performance.now(), 0));
    const start = performance.now();
    await calls[call](`${waits.length}: what is asked while the engine is busy`);
    waits.push(performance.now() - start);
  }
  const { loopLagMaxMs } = await runtime.ping();
  await Promise.all(reading);
  return { waits, loopLagMaxMs };
}

/** One stream, with or without a format that it cannot complete; milliseconds a token after the
 * first, as the runtime counts them. */
async function alone({ source, question, maxTokens, responseFormat }) {
  const result = await models.get(source).generate({
    messages: [{ role: 'user', content: question }],
    maxTokens,
    temperature: 0.7,
    seed: 1,
    ignoreEos: true,
    cachePrompt: false,
    ...(responseFormat && { responseFormat }),
  });
  if (result.ids.length !== maxTokens) throw new Error(`${result.ids.length} tokens came`);
  return { tokenMs: 1_000 / result.timing.tokensPerSecond };
}

await serve({ load, together, beside, alone }, () => runtime.close());
