/**
 * Sessions of Isthmus from Node, through its public API; where Python is comes on the command line.
 *
 * `restart` ends the runtime's process and starts another on the same folder, in this Node process:
 * what a program sees that goes on after a crash, or the next day.
 */

import { createRuntime } from '../../bridge/dist/index.js';
import { serve } from '../ipc/driver.mjs';

const [, , python] = process.argv;
/** Room for every session of a round: none is to leave memory before it is told to. */
const MEMORY_BYTES = 4 * 1024 ** 3;
const WARM_UP = { ids: Array.from({ length: 64 }, (_, id) => id), maxTokens: 2, cachePrompt: false };

let runtime;
let settings;
const models = new Map();
const sessions = new Map();

/** Start a runtime that has loaded its models and run a few tokens on each. */
async function start({ dir, sources }) {
  settings = { dir, sources };
  runtime = await createRuntime({
    python,
    env: process.env,
    heartbeat: false, // the longest lag that a pong tells is that since the last pong
    sessions: { dir, memoryBytes: MEMORY_BYTES },
  });
  for (const source of sources) {
    models.set(source, await runtime.loadModel(source, { localFilesOnly: true }));
    await models.get(source).generate(WARM_UP);
  }
  return { blas: runtime.hello.blas?.name };
}

async function restart() {
  await stop();
  return start(settings);
}

async function stop() {
  await runtime?.close();
  models.clear();
  sessions.clear();
}

async function sessionOf(name, source, tenant) {
  if (!sessions.has(name)) {
    const options = { model: models.get(source), tenant: tenant ?? undefined };
    sessions.set(name, await runtime.sessions.open(name, options));
  }
  return sessions.get(name);
}

/** Ask several sessions at once, each its own prompt; bytes are those that all of them took. */
async function ask({ source, names, tenant, prompts, maxTokens, isStreamed }) {
  const asked = await Promise.all(names.map((name) => sessionOf(name, source, tenant)));
  const requests = prompts.map((ids) => ({ ids: Uint32Array.from(ids), maxTokens }));
  const before = await runtime.sessions.stats();
  const start = performance.now();
  const clock = () => performance.now() - start;
  const answers = await Promise.all(
    asked.map((session, index) => answer(session.generate(requests[index]), isStreamed, clock)),
  );
  for (const session of asked) await saved(session);
  const after = await runtime.sessions.stats();
  return {
    answers,
    savedBytes: after.savedBytes - before.savedBytes,
    restoredBytes: after.restoredBytes - before.restoredBytes,
  };
}

async function answer(generation, isStreamed, clock) {
  let ttftMs;
  if (isStreamed) {
    for await (const { ids } of generation) if (ids.length > 0) ttftMs ??= clock();
  }
  const { ids, cache, timing, batching } = await generation;
  return {
    ids: Array.from(ids),
    totalMs: clock(),
    // Without deltas the runtime alone knows.
    ttftMs: ttftMs ?? timing.ttftMs,
    state: cache.state,
    reusedTokens: cache.reusedTokens,
    prefilledTokens: cache.prefilledTokens,
    loadMs: cache.loadMs,
    reason: batching.reason,
  };
}

async function saved(session) {
  const { saved: isSaved, reason } = await session.save();
  if (!isSaved) throw new Error(`${session.id} is not saved: ${reason}`);
}

async function remove({ names }) {
  for (const name of names) {
    await sessions.get(name).delete();
    sessions.delete(name);
  }
}

/** How long the runtime's loop stands still while a long session is saved, then read again. */
async function stall({ source, name, ids, restores }) {
  const session = await sessionOf(name, source);
  const request = { ids: Uint32Array.from(ids), maxTokens: 1 };
  await session.generate(request);
  const found = { save: await watched(() => saved(session)), restores: [] };
  for (let index = 0; index < restores; index += 1) {
    await session.evict();
    const told = await watched(async () => (await session.generate(request)).cache);
    found.restores.push({ ...told, state: told.value.state, loadMs: told.value.loadMs });
  }
  return found;
}

/** Longer than the runtime rests between two measurements of its lag. */
const SETTLE_MS = 600;

/** Echo without a pause while something is done, and until the loop's lag was measured after it. */
async function watched(act) {
  await runtime.ping();
  let isOver = false;
  const done = act().finally(() => {
    isOver = true;
  });
  let [lagMs, echoMs] = [0, 0];
  const start = performance.now();
  let end;
  do {
    const sent = performance.now();
    await runtime.echo('still there?');
    const now = performance.now();
    if (end === undefined) echoMs = Math.max(echoMs, now - sent);
    if (isOver) end ??= now;
    lagMs = Math.max(lagMs, (await runtime.ping()).loopLagMaxMs);
  } while (end === undefined || performance.now() < end + SETTLE_MS);
  return { lagMs, echoMs, ms: end - start, value: await done };
}

await serve({ start, restart, ask, remove, stall }, stop);
