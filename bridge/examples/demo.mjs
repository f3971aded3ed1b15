// The main job: spawn the runtime, load the embedded model, tokenize a batch, and stream three
// answers at once. Run by `make demo`; needs no download.
import { createRuntime } from '../dist/index.js';

const QUESTIONS = ['What is the capital of France?', 'What is 7 plus 5?', 'Describe the sea.'];
const WIDTH = (process.stdout.columns ?? 80) - 8;

const started = performance.now();
const say = (text) =>
  console.log(`${((performance.now() - started) / 1000).toFixed(2)} s  ${text}`);

const runtime = await createRuntime();
try {
  const { runtime: version, python, blas } = runtime.hello;
  say(`runtime ${version} is up (Python ${python}, BLAS ${blas.name})`);

  const model = await runtime.loadModel('default', {
    onProgress: ({ stage, done, total, unit }) =>
      say(total > 1 ? `${stage} ${done} of ${total} ${unit}` : stage),
  });
  const { architecture, parameters, dtype } = model.info;
  say(`loaded: ${architecture}, ${parameters} parameters, ${dtype}`);

  const batch = await model.tokenizeBatch(QUESTIONS);
  for (const [index, question] of QUESTIONS.entries()) {
    say(`${JSON.stringify(question)} is ${batch[index].length} tokens`);
  }

  say('three answers at once:');
  const screen = new Screen(QUESTIONS.length);
  const results = await Promise.all(
    QUESTIONS.map((question, index) => stream(model, question, (text) => screen.set(index, text))),
  );
  screen.end();
  for (const [index, { text, usage, timing, finishReason }] of results.entries()) {
    console.log(`\n  Q: ${QUESTIONS[index]}\n  A: ${text.trim()}`);
    console.log(
      `     ${usage.completionTokens} tokens, TTFT ${timing.ttftMs.toFixed(1)} ms, ` +
        `${timing.tokensPerSecond.toFixed(0)} tokens/s, finished: ${finishReason}`,
    );
  }
} finally {
  await runtime.close();
}
say('done');

async function stream(model, question, show) {
  const generation = model.generate({
    messages: [{ role: 'user', content: question }],
    maxTokens: 60,
  });
  let text = '';
  for await (const delta of generation) {
    text += delta.text;
    show(text);
  }
  return generation;
}

/** A line for each answer: redrawn in place on a terminal, printed as it grows elsewhere. */
function Screen(count) {
  const lines = new Array(count).fill('');
  const shown = new Array(count).fill(0);
  const draw = () => {
    for (const [index, line] of lines.entries()) {
      process.stdout.write(`\x1b[K  [${index + 1}] ${line.slice(-WIDTH)}\n`);
    }
  };
  if (process.stdout.isTTY) draw();
  this.set = (index, text) => {
    lines[index] = text.replaceAll('\n', ' ');
    if (process.stdout.isTTY) {
      process.stdout.write(`\x1b[${count}A`);
      draw();
    } else if (text.length - shown[index] >= 32) {
      console.log(`  [${index + 1}] …${text.slice(shown[index])}`);
      shown[index] = text.length;
    }
  };
  this.end = () => {
    if (process.stdout.isTTY) return;
    for (const [index, line] of lines.entries()) {
      if (line.length > shown[index]) console.log(`  [${index + 1}] …${line.slice(shown[index])}`);
    }
  };
}
