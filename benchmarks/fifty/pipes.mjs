/**
 * Counts the bytes on a child's pipes; the public API of Isthmus does not show them.
 *
 * It must be imported before the bridge, whose children it notices.
 */

import childProcess from 'node:child_process';
import { syncBuiltinESMExports } from 'node:module';

const children = [];
const { spawn } = childProcess;
childProcess.spawn = (...parameters) => {
  const child = spawn(...parameters);
  children.push(child);
  return child;
};
syncBuiltinESMExports();

/** Bytes to and from all children so far. */
export function pipeBytes() {
  const sum = (count) => children.reduce((total, child) => total + count(child), 0);
  return {
    sent: sum((child) => child.stdin?.bytesWritten ?? 0),
    received: sum((child) => child.stdout?.bytesRead ?? 0),
  };
}
