/**
 * Mixed load on two runtimes of one Node program, each answer compared with the oracle's.
 *
 * One runtime is killed every so often, the other one lives: its size, descriptors and threads must
 * stay what they are. A call is lost when it does not settle, or fails with what nothing explains.
 */

import { createRuntime, IsthmusError } from '../../bridge/dist/index.js';
import { serve } from '../ipc/driver.mjs';
import { Book } from './book.mjs';
import { workers } from './calls.mjs';
import { Samples, sample } from './samples.mjs';

const [, , python] = process.argv;
const RESTARTS = { limit: 1_000_000, windowMs: 60_000 };
/** What a call may take, whatever is killed, before it counts as lost. */
const SETTLE_LIMIT_MS = 120_000;
const WARM_UP_S = 5;
const SAMPLE_EVERY_MS = 500;

let sides = [];

/** Start both runtimes with the models that stay loaded. */
async function start({ source, draft, extras }) {
  for (const isKilled of [true, false]) {
    const runtime = await createRuntime({ python, env: process.env, restart: RESTARTS });
    const model = await runtime.loadModel(source);
    const drafter = await runtime.loadModel(draft);
    sides.push({ runtime, model, drafter, extras, isKilled, name: isKilled ? 'killed' : 'living' });
  }
  return {};
}

/** What each seeded request gives when it is alone. */
async function alone({ cases }) {
  const { model } = sides[1];
  const answers = [];
  for (const each of cases) {
    const result = await model.generate({
      ...each.request,
      ids: Uint32Array.from(each.request.ids),
      batch: false,
      cachePrompt: false,
    });
    answers.push(Array.from(result.ids));
  }
  return { answers };
}

async function soak({ seconds, killEveryS, seed, cases, texts }) {
  const book = new Book(SETTLE_LIMIT_MS);
  const until = performance.now() + seconds * 1_000;
  const isOver = () => performance.now() >= until;
  const running = sides.flatMap((side, index) =>
    workers({ side, cases, texts, book, seed: seed + index, isOver }),
  );
  await pause(Math.min(WARM_UP_S, seconds / 8) * 1_000);
  const before = await idleState();
  const samples = new Samples(performance.now(), until);
  const sampling = repeat(SAMPLE_EVERY_MS, isOver, async () => samples.add(await sample(sides)));
  const killing = repeat(killEveryS * 1_000, isOver, () => kill(sides[0].runtime, book));
  await Promise.all([...running, sampling, killing]);
  const after = await idleState();
  return {
    ...book.toJson(),
    ...samples.toJson(),
    before,
    after,
    supervision: (await sides[0].runtime.stats()).supervision,
  };
}

/** Descriptors and threads; those of a runtime just after a kill are not compared. */
async function idleState() {
  return (await sample(sides)).counts;
}

function kill(runtime, book) {
  try {
    process.kill(runtime.hello.pid, 'SIGKILL');
    book.kills++;
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

async function repeat(everyMs, isOver, act) {
  for (let due = performance.now() + everyMs; !isOver(); due += everyMs) {
    while (!isOver() && performance.now() < due)
      await pause(Math.min(250, due - performance.now()));
    if (!isOver()) await act();
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(ms, 0)));

async function stop() {
  await Promise.all(sides.map(({ runtime }) => runtime.close()));
  sides = [];
  return {};
}

process.on('unhandledRejection', (error) => {
  const text = error instanceof IsthmusError ? `${error.code}: ${error.message}` : error?.stack;
  process.stderr.write(`a rejection that nobody saw: ${text}\n`);
  process.exit(1);
});

await serve({ start, alone, soak, stop }, stop);
