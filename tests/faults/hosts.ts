/** Hosts in processes of their own, for tests that kill them. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished } from 'vitest';
import { ENVIRONMENT, isAlive, kill, waitUntil } from './support.js';

const HOST = fileURLToPath(new URL('./host_process.mjs', import.meta.url));

export interface HostOptions {
  readonly command: readonly string[];
  readonly state: string;
  readonly model?: string;
  readonly env?: Record<string, string>;
}

export interface Host {
  readonly process: ChildProcess;
  /** The next line it prints. */
  line(): Promise<Record<string, unknown>>;
}

/** Start a host in its own process group; everything of it is killed after the test. */
export function startHost(options: HostOptions): Host {
  const argument = JSON.stringify({ ...options, env: { ...ENVIRONMENT, ...options.env } });
  const child = spawn(process.execPath, [HOST, argument], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  onTestFinished(() => {
    if (child.pid !== undefined) kill(-child.pid);
  });
  return {
    process: child,
    async line() {
      const { value, done } = await lines.next();
      if (done) expect.fail('the host has ended');
      return JSON.parse(value) as Record<string, unknown>;
    },
  };
}

/** Kill a host with SIGKILL; return how long the runtime lived on, in milliseconds. */
export async function killHost(host: Host, runtimePid: number): Promise<number> {
  expect(isAlive(runtimePid)).toBe(true);
  host.process.kill('SIGKILL');
  return waitUntil(() => !isAlive(runtimePid), 'the runtime is gone', 5_000);
}
