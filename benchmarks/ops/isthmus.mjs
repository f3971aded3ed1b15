/**
 * Isthmus under many small calls: one runtime as its users have it, one with multiplexing off.
 *
 * `on` and `off` name the two. Every answer is compared with the ids or verdicts that are right.
 */

import { createRuntime } from '../../bridge/dist/index.js';
import { percentiles, serve, tidy } from '../ipc/driver.mjs';

const [, , python] = process.argv;
const make = async (multiplex) => {
  const runtime = await createRuntime({ python, env: process.env, multiplex });
  return { runtime, model: await runtime.loadModel() };
};
const subjects = { on: await make(true), off: await make(false) };

function compare(answer, ids) {
  const isSame = answer.length === ids.length && ids.every((id, index) => id === answer[index]);
  if (!isSame) throw new Error('an answer has other ids than the tokenizer gives');
}

function sent(stats) {
  const lanes = Object.values(stats.calls);
  const sum = (key) => lanes.reduce((total, lane) => total + lane[key], 0);
  return { frames: sum('frames'), calls: sum('calls') };
}

/** Each batch at once, every text with a call of its own; milliseconds, and the frames that left. */
async function all({ which, batches }) {
  const { runtime, model } = subjects[which];
  const before = sent(await runtime.stats());
  const ms = await each(batches, (texts) => Promise.all(texts.map((text) => model.tokenize(text))));
  const after = sent(await runtime.stats());
  const framesPerCall = (after.frames - before.frames) / (after.calls - before.calls || 1);
  return { ms, framesPerCall };
}

/** Each batch with one call of the batch API; milliseconds. */
async function batch({ batches }) {
  return { ms: await each(batches, (texts) => subjects.on.model.tokenizeBatch(texts)) };
}

async function each(batches, tokenize) {
  tidy();
  const ms = [];
  for (const { texts, ids } of batches) {
    const start = performance.now();
    const answers = await tokenize(texts);
    ms.push(performance.now() - start);
    for (const [index, answer] of answers.entries()) compare(answer, ids[index]);
  }
  return ms;
}

/** One after the other, the two runtimes in turns; microseconds, and what was held. */
async function lone({ texts, ids }) {
  tidy();
  const times = { on: new Float64Array(texts.length), off: new Float64Array(texts.length) };
  for (const [index, text] of texts.entries()) {
    for (const which of index % 2 === 0 ? ['on', 'off'] : ['off', 'on']) {
      const start = performance.now();
      const answer = await subjects[which].model.tokenize(text);
      times[which][index] = (performance.now() - start) * 1_000;
      compare(answer, ids[index]);
    }
  }
  const lanes = Object.values((await subjects.on.runtime.stats()).calls);
  const heldMs = Math.max(...lanes.map((lane) => lane.heldMs.max));
  return { on: percentiles(times.on), off: percentiles(times.off), heldMs };
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 1));

/** Calls that arrive at random, `rate` a second on average; microseconds from each call. Node sleeps
 * in between, as an app does: what becomes due within a millisecond is called in one turn. */
async function poisson({ texts, ids, rate, seed, isEcho }) {
  const { model, runtime } = subjects.on;
  const call = isEcho ? (text) => runtime.echo(text) : (text) => model.tokenize(text);
  tidy();
  const random = uniform(seed);
  const times = new Float64Array(texts.length);
  const pending = [];
  let at = performance.now();
  for (const [index, text] of texts.entries()) {
    at -= (Math.log(1 - random()) * 1_000) / rate;
    while (performance.now() < at) await pause();
    const start = performance.now();
    pending.push(
      call(text).then((answer) => {
        times[index] = (performance.now() - start) * 1_000;
        if (!isEcho) compare(answer, ids[index]);
      }),
    );
  }
  await Promise.all(pending);
  return { times: Array.from(times) };
}

/** Mulberry32: the same arrivals in every run. */
function uniform(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), 1 | state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Echoes, one at a time, while a long text is tokenized; milliseconds. */
async function beside({ text, count }) {
  const { runtime, model } = subjects.on;
  tidy();
  let isWorking = true;
  const work = model.tokenize(text).then((answer) => {
    isWorking = false;
    if (answer.length !== count) throw new Error('the long text has another number of tokens');
  });
  const waits = [];
  while (isWorking) {
    const start = performance.now();
    await runtime.echo('x');
    waits.push(performance.now() - start);
  }
  await work;
  return percentiles(waits);
}

/** Short texts together with a long one; milliseconds until the short ones had their answers. */
async function mixed({ texts, ids, text }) {
  const { model } = subjects.on;
  tidy();
  const start = performance.now();
  const calls = texts.map((each) => model.tokenize(each));
  const long = model.tokenize(text);
  const answers = await Promise.all(calls);
  const ms = performance.now() - start;
  for (const [index, answer] of answers.entries()) compare(answer, ids[index]);
  await long;
  return { ms };
}

/** The same drafts one at a time and all at once; milliseconds. */
async function drafts({ checks }) {
  const { model } = subjects.on;
  tidy();
  const start = performance.now();
  const alone = [];
  for (const check of checks) alone.push(await model.checkDraft(check));
  const between = performance.now();
  const together = await Promise.all(checks.map((check) => model.checkDraft(check)));
  const end = performance.now();
  for (const [index, verdict] of together.entries()) {
    const { accepted, token } = alone[index];
    if (verdict.accepted !== accepted || verdict.token !== token) {
      throw new Error('a verdict differs when it is made in a batch');
    }
  }
  const accepted = together.reduce((sum, verdict) => sum + verdict.accepted, 0);
  return { aloneMs: between - start, togetherMs: end - between, accepted };
}

/** What the model says after each prompt: the material of drafts. */
async function answers({ questions, maxTokens }) {
  const given = await Promise.all(
    questions.map((content) =>
      subjects.on.model.generate({
        messages: [{ role: 'user', content }],
        maxTokens,
        ignoreEos: true,
      }),
    ),
  );
  return { ids: given.map(({ ids }) => Array.from(ids)) };
}

const close = () => Promise.all(Object.values(subjects).map(({ runtime }) => runtime.close()));
await serve({ all, batch, lone, poisson, beside, mixed, drafts, answers }, close);
