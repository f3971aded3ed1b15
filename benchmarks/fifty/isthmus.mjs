/** Isthmus from Node, through its public API; where Python is comes on the command line. */

import { pipeBytes } from './pipes.mjs';
import { createRuntime } from '../../bridge/dist/index.js';
import { serve } from '../ipc/driver.mjs';
import { askAll } from './asking.mjs';

const [, , python] = process.argv;
let runtime;
let model;

/** From nothing: process, model, first token; seconds. */
async function start({ source, ids, options }) {
  const begun = performance.now();
  const seconds = () => (performance.now() - begun) / 1_000;
  runtime = await createRuntime({ python, env: process.env });
  model = await runtime.loadModel(source);
  const loadedS = seconds();
  for await (const { ids: tokens } of model.generate({
    ids: Uint32Array.from(ids),
    maxTokens: 1,
    ...options,
  })) {
    if (tokens.length > 0) break;
  }
  return { loadedS, firstTokenS: seconds(), blas: runtime.hello.blas?.name };
}

async function stop() {
  await runtime?.close();
  runtime = undefined;
  return {};
}

async function ask({ questions, atOnce, maxTokens, temperature, options }) {
  const before = pipeBytes();
  const asked = await askAll(questions, atOnce, ({ ids }, clock) =>
    answer({ ids: Uint32Array.from(ids), maxTokens, temperature, ...options }, clock),
  );
  const after = pipeBytes();
  const sent = after.sent - before.sent;
  return { ...asked, bytesSent: sent, bytesReceived: after.received - before.received };
}

async function answer(request, clock) {
  const generation = model.generate(request);
  let ttftMs;
  let firstTextMs;
  for await (const { text, ids } of generation) {
    if (ids.length > 0) ttftMs ??= clock();
    if (text !== '') firstTextMs ??= clock();
  }
  const responseMs = clock();
  const { ids, usage } = await generation;
  const { promptTokens, completionTokens, cachedTokens } = usage;
  return {
    responseMs,
    ttftMs,
    firstTextMs: firstTextMs ?? responseMs,
    tokens: completionTokens,
    promptTokens,
    cachedTokens,
    ids: Array.from(ids),
  };
}

/** What the chat template makes of each question. */
async function prompts({ questions }) {
  const rendered = questions.map((content) =>
    model.applyChatTemplate([{ role: 'user', content }], { tokenize: true }),
  );
  return { ids: (await Promise.all(rendered)).map((ids) => Array.from(ids)) };
}

/** Each question plainly and with the embedded draft model, in turns; tokens a second. */
async function speculate({ questions, maxTokens, source, draft, options }) {
  const [target, draftModel] = [await runtime.loadModel(source), await runtime.loadModel(draft)];
  const spent = { plain: 0, speculative: 0 };
  const sums = { tokens: 0, drafted: 0, accepted: 0, equal: 0 };
  const answerOf = async (request, way) => {
    const start = performance.now();
    const result = await target.generate(request);
    spent[way] += performance.now() - start;
    return result;
  };
  for (const { ids } of questions) {
    const request = { ids: Uint32Array.from(ids), maxTokens, ignoreEos: true, ...options };
    const plain = await answerOf(request, 'plain');
    const drafted = await answerOf({ ...request, speculation: { draftModel } }, 'speculative');
    sums.tokens += plain.ids.length;
    sums.drafted += drafted.speculation.drafted;
    sums.accepted += drafted.speculation.accepted;
    sums.equal += plain.ids.join() === drafted.ids.join() ? 1 : 0;
  }
  const rate = (way) => (sums.tokens / spent[way]) * 1_000;
  return { ...sums, plain: rate('plain'), speculative: rate('speculative') };
}

await serve({ start, stop, ask, prompts, speculate }, stop);
