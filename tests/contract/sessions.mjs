// Uses sessions through the Node package, and answers with one line of JSON: what a user of the
// package sees of each call, results and errors.
import { text } from 'node:stream/consumers';
import { createRuntime, IsthmusError } from '../../bridge/dist/index.js';

const { python, folder, prompt, longer } = JSON.parse(await text(process.stdin));
const GREEDY = { maxTokens: 16, ignoreEos: true };

/** What became of a call: its result, or its error. */
async function shown(call) {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof IsthmusError)) throw error;
    const { name, code, retryable, details } = error;
    return { name, code, retryable, field: details.field };
  }
}

const generated = async (generation) => {
  const { ids, cache, usage } = await generation;
  return { ids: [...ids], cache, usage };
};

async function answersOf(runtime) {
  const model = await runtime.loadModel();
  const open = (id, options) => runtime.sessions.open(id, { model, ...options });
  const say = (maker, ids, options) => generated(maker.generate({ ids, ...GREEDY, ...options }));
  const session = await open('chat', { kv: 'q8', pin: true, tenant: 'alice', whenBusy: 'fail' });
  const answers = { opened: session.info };
  answers.first = await say(session, prompt);
  answers.second = await say(session, longer);
  answers.plain = await say(model, longer, { cachePrompt: false });
  answers.saved = await session.save();
  answers.evicted = await session.evict();
  answers.evictedAgain = await session.evict();
  answers.warm = (await session.refresh()).state;
  const fork = await session.fork('other');
  answers.forked = fork.info;
  answers.third = await say(fork, longer);
  answers.drafted = await say(fork, [...longer, ...longer.slice(0, 30)], {
    speculation: { promptLookup: true },
  });
  answers.plainDrafted = await say(model, [...longer, ...longer.slice(0, 30)], {
    cachePrompt: false,
  });
  answers.truncated = await fork.truncate(100);
  answers.listed = (await runtime.sessions.list({ tenant: 'alice' })).map(({ id }) => id);
  answers.others = await runtime.sessions.list();
  const running = session.generate({ ids: prompt, maxTokens: 2_000, ignoreEos: true });
  for await (const _ of running) {
    answers.busy = [
      await shown(() => session.save()),
      await shown(() => generated(session.generate({ ids: prompt, ...GREEDY }))),
      await shown(() => session.delete()),
    ];
    break;
  }
  // It waits until the turn has ended.
  await open('chat', { tenant: 'alice', whenBusy: 'queue' });
  answers.refused = [
    await shown(() => open('../up')),
    await shown(() => open('a', { kv: 'q2' })),
    await shown(() => open('a', { tenant: '' })),
    await shown(() => open('a', { whenBusy: 'never' })),
    await shown(() => open('a', { ttl: 1 })),
    await shown(() => fork.truncate(-1)),
    await shown(() => fork.truncate(0.5)),
    await shown(() => fork.fork('chat')),
    await shown(() => fork.fork('a/b')),
    await shown(() => generated(fork.generate({ prompt: 'x', cachePrompt: false }))),
    await shown(() => runtime.sessions.list({ tenant: '' })),
  ];
  answers.deleted = [await fork.delete(), await fork.delete()];
  answers.deletedByName = [
    await runtime.sessions.delete('chat'),
    await runtime.sessions.delete('chat', { tenant: 'alice' }),
  ];
  answers.stats = await runtime.sessions.stats();
  return answers;
}

const runtime = await createRuntime({ python, sessions: { dir: folder, ttlMs: 3_600_000 } });
try {
  process.stdout.write(`${JSON.stringify(await answersOf(runtime))}\n`);
} finally {
  await runtime.close();
}
