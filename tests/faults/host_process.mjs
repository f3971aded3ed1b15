/**
 * A host in a process of its own, for tests that kill it: `node host_process.mjs JSON`.
 *
 * Starts the runtime, brings it into `state`, and prints `{pid, state}` as one line. It then waits
 * until it is killed, or ends the runtime at SIGINT and prints how that ended.
 */

import { createRuntime } from '../../bridge/dist/index.js';

const { command, state, model, env } = JSON.parse(process.argv[2]);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const ignore = () => undefined;

process.on('SIGINT', async () => {
  const report = await runtime.close();
  say({ report });
  process.exit(0);
});

const runtime = await createRuntime({ command, env });

const states = {
  async idle() {
    await runtime.call('fault_block_engine', { seconds: 0 });
  },
  async starting() {},
  async loading() {
    await new Promise((resolve) => {
      const onProgress = (progress) => progress.stage === 'load' && resolve();
      runtime.loadModel(model, { onProgress }).catch(ignore);
    });
  },
  async prefill() {
    const loaded = await runtime.loadModel(model);
    loaded.generate({ prompt: 'x'.repeat(60_000) }).then(ignore, ignore);
    // At work, and a moment later still, and again.
    for (let looks = 0; looks < 5; looks++) {
      if ((await runtime.ping()).engine.state !== 'busy') looks = 0;
    }
  },
  async decode() {
    const loaded = await runtime.loadModel(model);
    const deltas = loaded.generate({ prompt: 'a', maxTokens: 100_000 })[Symbol.asyncIterator]();
    for (let count = 0; count < 3; count++) await deltas.next();
    (async () => {
      while (!(await deltas.next()).done);
    })().catch(ignore);
  },
  async 'engine busy'() {
    runtime.call('fault_block_engine', { seconds: 600 }).catch(ignore);
    await runtime.echo('after it');
  },
  async 'interpreter lock held'() {
    await runtime.call('fault_block_engine', { seconds: 0 });
    runtime.call('fault_block_engine', { seconds: 600, hold_gil: true }).catch(ignore);
    // Once nothing answers within the deadline, the lock is held.
    const isAnswered = () =>
      runtime.call('echo', { data: 1 }, { deadlineMs: 100 }).then(
        () => true,
        () => false,
      );
    while (await isAnswered());
  },
  async stalled() {
    runtime.call('fault_block_loop', { seconds: 600 }).catch(ignore);
  },
};

await states[state]();
say({ pid: runtime.hello.pid, state });
setInterval(ignore, 1_000_000);
