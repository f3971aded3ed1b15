/** Isthmus through its public API, asked what its peers are asked. */

import { createRuntime } from '../../../bridge/dist/index.js';

export async function start(python) {
  const runtime = await createRuntime({ python, env: process.env });
  const model = await runtime.loadModel('default');
  return {
    echo: (text) => runtime.echo(text),
    tokenize: (text) => model.tokenize(text),
    stream: async (count, take) => {
      for await (const index of runtime.streamEcho(count)) take(index);
    },
    close: () => runtime.close(),
  };
}
