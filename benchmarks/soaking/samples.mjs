/** Sizes, descriptors, threads and lags of the program and its runtimes, over time (Linux). */

import { readdirSync, readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

const PAGE_BYTES = 4_096;
const delay = monitorEventLoopDelay({ resolution: 10 });
delay.enable();

const bytesOf = (pid) =>
  Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * PAGE_BYTES;
const fdsOf = (pid) => readdirSync(`/proc/${pid}/fd`).length;
const threadsOf = (pid) => readdirSync(`/proc/${pid}/task`).length;

/** Look once. A runtime that is just being restarted is left out. */
export async function sample(sides) {
  const found = {
    rss: { host: process.memoryUsage.rss() },
    counts: { fds: { host: fdsOf('self') }, threads: { host: threadsOf('self') } },
    lagMs: undefined,
  };
  for (const { name, runtime, isKilled } of sides) {
    try {
      const { pid } = runtime.hello;
      found.rss[name] = bytesOf(pid);
      found.counts.fds[name] = fdsOf(pid);
      found.counts.threads[name] = threadsOf(pid);
      if (!isKilled) found.lagMs = (await runtime.ping()).loopLagMaxMs;
    } catch (error) {
      if (!isKilled) throw error;
    }
  }
  return found;
}

export class Samples {
  #start;
  #end;
  #rows = [];

  constructor(start, end) {
    this.#start = start;
    this.#end = end;
  }

  add(found) {
    this.#rows.push({ at: performance.now(), ...found });
  }

  toJson() {
    const quarter = (this.#end - this.#start) / 4;
    const of = (index, name) =>
      median(
        this.#rows
          .filter(({ at }) => Math.floor((at - this.#start) / quarter) === index)
          .map(({ rss }) => rss[name])
          .filter((bytes) => bytes !== undefined),
      );
    const rss = {};
    for (const name of ['host', 'killed', 'living']) {
      rss[name] = [0, 1, 2, 3].map((index) => of(index, name));
    }
    const lags = this.#rows.map(({ lagMs }) => lagMs).filter((lag) => lag !== undefined);
    const most = (pick) => Math.max(...this.#rows.map(({ counts }) => pick(counts)));
    return {
      rss,
      samples: this.#rows.length,
      loopLagMs: {
        p50: percentile(lags, 0.5),
        p99: percentile(lags, 0.99),
        max: Math.max(...lags),
      },
      hostLagMs: { p50: delay.percentile(50) / 1e6, p99: delay.percentile(99) / 1e6 },
      most: {
        hostFds: most(({ fds }) => fds.host),
        livingFds: most(({ fds }) => fds.living ?? 0),
        hostThreads: most(({ threads }) => threads.host),
        livingThreads: most(({ threads }) => threads.living ?? 0),
      },
    };
  }
}

const percentile = (values, part) =>
  values.toSorted((one, other) => one - other)[
    Math.min(Math.floor(values.length * part), values.length - 1)
  ];
const median = (values) => percentile(values, 0.5);
