// Generates for every prompt of the question on standard input, through the Node package, in each
// of four ways: streamed or awaited, alone or several at once. Answers with one line of JSON.
import { text } from 'node:stream/consumers';
import { createRuntime } from '../../bridge/dist/index.js';

const { python, folder, prompts, maxTokens, runtimeArgs, atOnce } = JSON.parse(
  await text(process.stdin),
);

async function streamed(model, prompt) {
  const generation = model.generate({ prompt, maxTokens });
  const ids = [];
  let answer = '';
  for await (const delta of generation) {
    ids.push(...delta.ids);
    answer += delta.text;
  }
  const { finishReason, isComplete } = await generation;
  return { ids, text: answer, finish_reason: finishReason, is_complete: isComplete };
}

async function awaited(model, prompt) {
  const { ids, text: answer, ...end } = await model.generate({ prompt, maxTokens });
  return {
    ids: [...ids],
    text: answer,
    finish_reason: end.finishReason,
    is_complete: end.isComplete,
  };
}

async function all(model, one, limit) {
  const answers = new Array(prompts.length);
  let next = 0;
  const worker = async () => {
    while (next < prompts.length) {
      const index = next++;
      answers[index] = await one(model, prompts[index]);
    }
  };
  await Promise.all(Array.from({ length: limit }, worker));
  return answers;
}

const runtime = await createRuntime({ python, runtimeArgs });
try {
  const model = await runtime.loadModel(folder);
  const answers = {
    'streamed, alone': await all(model, streamed, 1),
    'streamed, several at once': await all(model, streamed, atOnce),
    'awaited, alone': await all(model, awaited, 1),
    'awaited, several at once': await all(model, awaited, atOnce),
  };
  process.stdout.write(`${JSON.stringify(answers)}\n`);
} finally {
  await runtime.close();
}
