// The main job: spawn the runtime, load the embedded model, tokenize a batch, and stream three
// answers at once. Run by `make demo`; needs no download.
import { createRuntime } from '../dist/index.js';

const QUESTIONS = ['What is the capital of France?', 'What is 7 plus 5?', 'Describe the sea.'];

const started = performance.now();
const runtime = await createRuntime();
const since = () => `${((performance.now() - started) / 1000).toFixed(2)} s`;
try {
  const { runtime: version, python, blas } = runtime.hello;
  console.log(`${since()}  runtime ${version} is up (Python ${python}, BLAS ${blas.name})`);

  const model = await runtime.loadModel('default', {
    onProgress: ({ stage, done, total, unit }) =>
      console.log(`${since()}  ${stage}${total > 1 ? ` ${done} of ${total} ${unit}` : ''}`),
  });
  const { architecture, parameters, dtype } = model.info;
  console.log(`${since()}  loaded: ${architecture}, ${parameters} parameters, ${dtype}`);

  const batch = await model.tokenizeBatch(QUESTIONS);
  QUESTIONS.forEach((question, index) => {
    console.log(`  ${JSON.stringify(question)} is ${batch[index].length} tokens`);
  });

  const answers = QUESTIONS.map(() => '');
  await Promise.all(QUESTIONS.map((question, index) => stream(model, question, index, answers)));
} finally {
  await runtime.close();
}
console.log(`${since()}  done`);

async function stream(model, question, index, answers) {
  const generation = model.generate({
    messages: [{ role: 'user', content: question }],
    maxTokens: 60,
  });
  for await (const delta of generation) {
    answers[index] += delta.text;
    process.stdout.write(`\r\x1b[K  [${index + 1}] ${answers[index].slice(-70)}`);
  }
  const { usage, timing, finishReason } = await generation;
  process.stdout.write('\r\x1b[K');
  console.log(`  Q: ${question}\n  A: ${answers[index].trim()}`);
  console.log(
    `     ${usage.completionTokens} tokens, TTFT ${timing.ttftMs.toFixed(1)} ms, ` +
      `${timing.tokensPerSecond.toFixed(0)} tokens/s, finished: ${finishReason}`,
  );
}
