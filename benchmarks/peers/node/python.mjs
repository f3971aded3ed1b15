/**
 * What the peers share on the Node side: starting their Python programs, and noticing their end.
 *
 * A program that listens on a socket gets a path in a folder of its own, and ends with its
 * standard input (see python/service.py), so that none outlives us.
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const RETRY_MS = 20;

let fail;

/** Rejects when a Python program ends, with the last line that it said. */
export const failure = new Promise((_, reject) => {
  fail = reject;
});
failure.catch(() => {});

/** Where a Python program of the peers is. */
export function script(name) {
  return fileURLToPath(new URL(`../python/${name}`, import.meta.url));
}

/** Start a program of the peers with its standard streams piped. */
export function startPython(python, name, ...parameters) {
  return watch(spawn(python, [script(name), ...parameters], { stdio: 'pipe' }));
}

/** Have `failure` know about the end of a Python process. */
export function watch(child) {
  let said = '';
  child.stderr?.on('data', (chunk) => {
    process.stderr.write(chunk);
    said = (said + chunk).slice(-2_000);
  });
  child.once('error', fail);
  child.once('close', (code, signal) => {
    const last = said.trimEnd().split('\n').at(-1);
    fail(new Error(`its Python process has ended (${signal ?? code}) ${last}`.trimEnd()));
  });
  return child;
}

/** A path for a Unix socket, in a folder that goes with this process. */
export function socketPath() {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-peer-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'socket');
}

/** Resolve when somebody listens there; the caller's deadline ends it otherwise. */
export async function untilListening(path) {
  while (!(await isListening(path))) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
}

function isListening(path) {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
