/**
 * The calls of the soak, and what is right for each: every worker makes calls of one kind, one after
 * the other, until the time is over. Errors that a kill, a cancel or a deadline explains are fine;
 * with a generation's error what was delivered must still be right.
 */

import { Random } from './random.mjs';

const GENERATORS = 3;
const SLOW_READER_MS = 40;
const SLOW_CREDIT = 4;
const BURST = 48;
/** A model's whole vocabulary lies far below this id. */
const NO_TOKEN = 4_000_000;
const PASSING = new Set(['RUNTIME_EXITED', 'CIRCUIT_OPEN', 'QUEUE_FULL']);

/** What may come of a call on a runtime that is killed, or is not. */
const explained = (isKilled) => (error) =>
  isKilled && PASSING.has(error.code) ? undefined : 'unexpected';

export function workers({ side, cases, texts, book, seed, isOver }) {
  const shared = { ...side, cases, texts, book, allows: explained(side.isKilled) };
  const repeat = async (act, number) => {
    const random = new Random(seed * 1_000 + number);
    while (!isOver()) await act(shared, random);
  };
  return [
    ...Array.from({ length: GENERATORS }, (_, index) => repeat(generate, index)),
    repeat(readSlowly, 100),
    repeat(leave, 101),
    repeat(tokenize, 102),
    repeat(checkDrafts, 103),
    repeat(loadAndUnload, 104),
    repeat(ask, 105),
  ];
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const isSame = (one, other) =>
  one.length === other.length && one.every((value, index) => value === other[index]);
const begins = (ids, whole) => isSame(ids, whole.slice(0, ids.length));
const shown = (ids, wanted) => `${Array.from(ids).join(' ')} instead of ${wanted.join(' ')}`;

function requestOf({ request }) {
  return { ...request, ids: Uint32Array.from(request.ids) };
}

/** Judge a generation: its tokens, or those that came before its error. */
async function judge({ book, allows }, kind, each, generation, act, mayEnd = () => undefined) {
  const check = (ids, isWhole) =>
    (isWhole ? isSame(ids, each.ids) : begins(ids, each.ids)) ? undefined : shown(ids, each.ids);
  await book.judge(
    kind,
    () => act(generation),
    ({ ids, finishReason }) => check(Array.from(ids), finishReason !== 'cancelled'),
    (error) => {
      const partial = Array.from(error.partial?.ids ?? []);
      const problem = check(partial, false);
      if (problem !== undefined) book.wrongPart(kind, problem);
      return mayEnd(error) ? undefined : allows(error);
    },
  );
}

/** Whole answers: alone, streamed, with a draft model, with a look-up, with another priority. */
async function generate(shared, random) {
  const { model, drafter, cases } = shared;
  const each = random.pick(cases);
  const way = random.integer(5);
  const options = [
    {},
    { speculation: { draftModel: drafter } },
    { speculation: { promptLookup: true } },
    { priority: random.integer(3) - 1 },
    { cachePrompt: false, batch: false },
  ][way];
  const generation = model.generate({ ...requestOf(each), ...options });
  const isStreamed = random.integer(2) === 1;
  await judge(
    shared,
    `generate ${isStreamed ? 'streamed' : 'whole'}`,
    each,
    generation,
    async () => {
      if (isStreamed) for await (const delta of generation) void delta;
      return generation;
    },
  );
}

async function readSlowly(shared, random) {
  const each = random.pick(shared.cases);
  const request = { ...requestOf(each), credit: SLOW_CREDIT };
  await judge(shared, 'slow reader', each, shared.model.generate(request), async (generation) => {
    const ids = [];
    for await (const delta of generation) {
      ids.push(...delta.ids);
      await pause(SLOW_READER_MS);
    }
    return { ids, finishReason: 'read' };
  });
}

/** Generations that are cancelled, aborted, left or late. */
async function leave(shared, random) {
  const each = random.pick(shared.cases);
  const after = random.integer(each.ids.length);
  const way = random.pick(['cancel', 'abort', 'break', 'late']);
  const controller = new AbortController();
  const options = { abort: { signal: controller.signal }, late: { deadlineMs: 1 + after * 4 } };
  const generation = shared.model.generate({ ...requestOf(each), ...options[way] });
  const codes = { abort: 'CANCELLED', late: 'DEADLINE_EXCEEDED' };
  const read = async () => {
    const ids = [];
    for await (const delta of generation) {
      ids.push(...delta.ids);
      if (ids.length < after) continue;
      if (way === 'break') return { ids, finishReason: 'cancelled' };
      if (way === 'cancel') generation.cancel();
      if (way === 'abort') controller.abort();
    }
    return generation;
  };
  const mayEnd = (error) => error.code === codes[way];
  await judge(shared, `generate, then ${way}`, each, generation, read, mayEnd);
  await pause(random.integer(20));
}

/** Bursts of texts, with one bad call among them now and then. */
async function tokenize({ model, texts, book, allows }, random) {
  const count = 1 + random.integer(BURST);
  const calls = Array.from({ length: count }, () => {
    const { text, ids } = random.pick(texts);
    const check = (found) => (isSame(Array.from(found), ids) ? undefined : shown(found, ids));
    return book.judge('tokenize', () => model.tokenize(text), check, allows);
  });
  if (random.integer(4) === 0) {
    const isRefused = (error) => (error.code === 'INVALID_REQUEST' ? undefined : allows(error));
    const check = () => 'an id outside the vocabulary was accepted';
    calls.push(book.judge('bad ids', () => model.detokenize([NO_TOKEN]), check, isRefused));
  }
  await Promise.all(calls);
  await pause(random.integer(60));
}

/** Drafts that are right up to a place. */
async function checkDrafts({ model, cases, book, allows }, random) {
  const greedy = cases.filter(({ request }) => request.temperature === undefined);
  const calls = Array.from({ length: 1 + random.integer(4) }, () => {
    const { request, ids } = random.pick(greedy);
    const from = random.integer(ids.length - 5);
    const right = random.integer(4);
    const draft = ids.slice(from, from + right);
    draft.push((ids[from + right] + 1) % 500);
    const check = ({ accepted, token }) =>
      accepted === right && token === ids[from + right]
        ? undefined
        : `${accepted} accepted and ${token}, instead of ${right} and ${ids[from + right]}`;
    const question = { ids: [...request.ids, ...ids.slice(0, from)], draft };
    return book.judge('check_draft', () => model.checkDraft(question), check, allows);
  });
  await Promise.all(calls);
  await pause(random.integer(50));
}

/** Load a further model, use it, give it back; now and then its memory at once. */
async function loadAndUnload({ runtime, extras, book, allows }, random) {
  const extra = random.pick(extras);
  const load = () => runtime.loadModel(extra.source);
  const model = await book.judge('load', load, () => undefined, allows);
  if (model === undefined) return pause(50);
  const { ids, request } = extra.case;
  const check = (result) =>
    isSame(Array.from(result.ids), ids) ? undefined : shown(result.ids, ids);
  await book.judge('use a model', () => model.generate(requestOf({ request })), check, allows);
  const evict = random.integer(3) === 0;
  await book.judge(
    'unload',
    () => model.unload({ evict }),
    () => undefined,
    allows,
  );
  await pause(random.integer(200));
}

/** What needs no model. */
async function ask({ runtime, book, allows }, random) {
  const sent = { number: random.integer(1_000_000), text: 'é'.repeat(random.integer(5_000)) };
  const check = (found) =>
    found.number === sent.number && found.text === sent.text ? undefined : 'another echo';
  await book.judge('echo', () => runtime.echo(sent), check, allows);
  await book.judge(
    'health',
    () => runtime.health(),
    () => undefined,
    allows,
  );
  await pause(20 + random.integer(40));
}
