/** Isthmus through its public API; the options of `createRuntime` come as JSON on the command line. */

import { createRuntime } from '../../bridge/dist/index.js';
import { callOperations, isSame, payloads, percentiles, serve } from './driver.mjs';

const options = { env: process.env, ...JSON.parse(process.argv[2]) };
const runtime = await createRuntime(options);
let model;

const echo = (payload) => runtime.echo(payload);
const kinds = {
  text: echo,
  bytes: echo,
  tokenize: (text) => model.tokenize(text).then((ids) => (ids.length > 0 ? text : '')),
};

/** A stream of `count` small chunks, `times` times; microseconds a chunk. */
async function stream({ count, times }) {
  const perChunk = [];
  for (let run = 0; run < times; run += 1) {
    const start = performance.now();
    await readInOrder(count, async () => {});
    perChunk.push(((performance.now() - start) * 1_000) / count);
  }
  return { perChunk };
}

/** A long stream whose reader stops now and then for a while. */
async function pausing({ count, every, ms }) {
  const start = performance.now();
  await readInOrder(count, (index) =>
    index % every === 0 ? new Promise((resolve) => setTimeout(resolve, ms)) : undefined,
  );
  return { count, seconds: (performance.now() - start) / 1_000 };
}

async function readInOrder(count, pause) {
  let expected = 0;
  for await (const index of runtime.streamEcho(count)) {
    if (index !== expected) throw new Error(`chunk ${index} came where ${expected} belongs`);
    expected += 1;
    if (pause !== undefined && expected % 1_000 === 0) await pause(expected);
  }
  if (expected !== count) throw new Error(`${count - expected} chunks are missing`);
}

/** Small echoes, one at a time, while a large one travels there and back; microseconds. */
async function beside({ bytes, times }) {
  const large = Buffer.alloc(bytes, 'x');
  const [small] = payloads('text', 64);
  const waits = [];
  const start = performance.now();
  for (let run = 0; run < times; run += 1) {
    let isTravelling = true;
    const travel = runtime.echo(large).then((answer) => {
      isTravelling = false;
      if (!isSame(answer, large)) throw new Error('the large echo differs');
    });
    while (isTravelling) {
      const sent = performance.now();
      if ((await runtime.echo(small)) !== small) throw new Error('a small echo differs');
      waits.push((performance.now() - sent) * 1_000);
    }
    await travel;
  }
  return { ...percentiles(waits), travelMs: (performance.now() - start) / times };
}

/** One generation; when its tokens reached this consumer, in nanoseconds of the monotonic clock. */
async function generate({ ids, maxTokens }) {
  const start = process.hrtime.bigint();
  // The other side computes the prompt every time.
  const request = { ids: Uint32Array.from(ids), maxTokens, ignoreEos: true, cachePrompt: false };
  const generation = model.generate(request);
  const at = [];
  const tokens = [];
  for await (const chunk of generation) {
    const now = process.hrtime.bigint();
    for (const id of chunk.ids) {
      tokens.push(id);
      at.push(Number(now));
    }
  }
  const { timing } = await generation;
  const [first, last] = [at[0], at.at(-1)];
  return {
    tokens,
    at,
    ttftMs: (first - Number(start)) / 1e6,
    tokenUs: (last - first) / 1e3 / (tokens.length - 1),
    timing,
  };
}

/** A second runtime, from nothing: hello, model, first token. */
async function start({ source, ids }) {
  const begun = performance.now();
  const other = await createRuntime(options);
  const hello = performance.now();
  const loaded = await other.loadModel(source);
  const ready = performance.now();
  for await (const chunk of loaded.generate({ ids: Uint32Array.from(ids), maxTokens: 1 })) {
    if (chunk.ids.length > 0) break;
  }
  const token = performance.now();
  await other.close();
  return { helloMs: hello - begun, loadMs: ready - hello, firstTokenS: (token - begun) / 1_000 };
}

await serve(
  {
    ...callOperations(kinds),
    load: async ({ source }) => {
      model = await runtime.loadModel(source);
    },
    ids: async ({ text }) => ({ ids: Array.from(await model.tokenize(text)) }),
    stream,
    pausing,
    beside,
    generate,
    start,
    stamps: async () => ({ stamps: await runtime.echo('stamps') }),
  },
  () => runtime.close(),
);
