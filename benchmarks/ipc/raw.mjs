/** The floor: bytes through Node's streams to a Python child that echoes them. No frames, no ids. */

import { spawn } from 'node:child_process';
import { callOperations, serve } from './driver.mjs';

const [, , python, script] = process.argv;
const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'inherit'] });

/** Calls in the order they were made: the child answers in that order. */
const waiting = [];
let parts = [];
let have = 0;

child.stdout.on('data', (chunk) => {
  let rest = chunk;
  while (waiting.length > 0 && have + rest.length >= waiting[0].bytes) {
    const { bytes, resolve } = waiting.shift();
    const taken = bytes - have;
    const last = rest.subarray(0, taken);
    resolve(parts.length === 0 ? last : Buffer.concat([...parts, last]));
    parts = [];
    have = 0;
    rest = rest.subarray(taken);
  }
  if (rest.length > 0) {
    parts.push(rest);
    have += rest.length;
  }
});

const call = (payload) =>
  new Promise((resolve) => {
    waiting.push({ bytes: payload.length, resolve });
    child.stdin.write(payload);
  });

await serve({ ...callOperations({ bytes: call }), ready: () => ({ child: child.pid }) }, () => {
  child.stdin.end();
});
