// Generates with each option of the engine through the Node package, and answers with one line of
// JSON: for each case the results, or the errors, as a user of the package sees them.
import { text } from 'node:stream/consumers';
import { createRuntime, IsthmusError } from '../../bridge/dist/index.js';

const { python, formats, refused } = JSON.parse(await text(process.stdin));
const STORY = { prompt: 'Once upon a time', maxTokens: 60, ignoreEos: true };
const FIRST = [{ role: 'user', content: 'My name is Ada. What is the capital of France?' }];
const LETTERS = { type: 'regex', pattern: '[a-z]{1000}' };
const TOOLS = [{ type: 'function', function: { name: 'look_up', parameters: {} } }];

async function shown(generation) {
  try {
    const result = await generation;
    return { ...result, ids: [...result.ids] };
  } catch (error) {
    if (!(error instanceof IsthmusError)) throw error;
    return { name: error.name, code: error.code, field: error.details.field };
  }
}

/** One after the other, so that the first of them finds nothing measured. */
async function inTurn(requests, generate) {
  const answers = [];
  for (const request of requests) answers.push(await generate(request));
  return answers;
}

async function left(generation) {
  for await (const _ of generation) break;
  return shown(generation);
}

async function turns(model, options) {
  const first = await shown(model.generate({ messages: FIRST, ...options }));
  const answer = { role: 'assistant', content: first.text };
  const messages = [...FIRST, answer, { role: 'user', content: 'What is my name?' }];
  return [first, await shown(model.generate({ messages, ...options }))];
}

const runtime = await createRuntime({ python });
try {
  const model = await runtime.loadModel();
  const draftModel = await runtime.loadModel('default-draft');
  const generate = (options) => shown(model.generate({ ...STORY, ...options }));
  const all = (requests) => Promise.all(requests.map(generate));
  const answers = {
    plain: await generate({ cachePrompt: false }),
    // Before anything is kept that begins alike.
    uncached: await turns(model, { cachePrompt: false }),
    cached: await turns(model, {}),
    alone: await generate({ batch: false }),
    together: await all([{ priority: 100 }, { priority: -100 }, {}]),
    drafted: await inTurn(
      [
        { speculation: { draftModel, maxDraftTokens: 3 } },
        { speculation: { promptLookup: true } },
        { speculation: { draftModel }, temperature: 0.8, seed: 7 },
        { temperature: 0.8, seed: 7 },
      ],
      generate,
    ),
    formatted: await all(formats.map((responseFormat) => ({ responseFormat, maxTokens: 200 }))),
    cut: await generate({ responseFormat: LETTERS, maxTokens: 3 }),
    left: await left(model.generate({ ...STORY, responseFormat: LETTERS, maxTokens: 2_000 })),
    tools: await shown(model.generate({ messages: FIRST, tools: TOOLS, maxTokens: 5 })),
    refused: await all([
      ...refused,
      { speculation: { draftModel, promptLookup: true } },
      { speculation: { draftModel: draftModel.handle } },
    ]),
  };
  process.stdout.write(`${JSON.stringify(answers)}\n`);
} finally {
  await runtime.close();
}
