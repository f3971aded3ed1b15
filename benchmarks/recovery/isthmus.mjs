/**
 * Isthmus that is killed, and Isthmus that is started: both until a text is tokenized.
 *
 * The killed runtime has been idle, and counts as one that ran well for long: the first restart after
 * that waits up to 250 ms, by chance, as it would in production.
 */

import { createRuntime } from '../../bridge/dist/index.js';
import { serve } from '../ipc/driver.mjs';

const [, , python] = process.argv;
const TEXT = 'What is tokenized first after a start';

let runtime;
let model;
let expected;

const begin = (options) => createRuntime({ python, env: process.env, ...options });

/** The runtime that is killed again and again; each of its runs counts as healthy at once. */
async function open() {
  runtime = await begin({ restart: { limit: 1_000, healthyMs: 0 } });
  model = await runtime.loadModel('default');
  expected = String(await model.tokenize(TEXT));
  return {};
}

/** From nothing. */
async function fresh() {
  const start = performance.now();
  const own = await begin();
  const loaded = await own.loadModel('default');
  check(await loaded.tokenize(TEXT));
  const ms = performance.now() - start;
  await own.close();
  return { ms };
}

/** From the kill, through the `Model` of the runtime that was killed. */
async function restart() {
  check(await model.tokenize(TEXT));
  const start = performance.now();
  process.kill(runtime.pid, 'SIGKILL');
  check(await model.tokenize(TEXT));
  return { ms: performance.now() - start };
}

function check(ids) {
  if (String(ids) !== expected) throw new Error(`other ids came: ${ids}`);
}

await serve({ open, fresh, restart }, () => runtime.close());
