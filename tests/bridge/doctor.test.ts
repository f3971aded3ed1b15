import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { here } from './support.js';

const DOCTOR = here('../../bridge/dist/doctor.js');
const PEER = here('./fixtures/peer.mjs');

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'isthmus-doctor-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
});

/** A Python that is usable by its own account, and runs a fake runtime in the given way. */
function fakePython(scenario: string): string {
  const file = join(folder, 'python3');
  const answer = JSON.stringify([[3, 12, 0], file, true]);
  writeFileSync(
    file,
    `#!/bin/sh\nif [ "$1" = -c ]; then echo '${answer}'; else exec '${process.execPath}' '${PEER}' ${scenario}; fi\n`,
  );
  chmodSync(file, 0o755);
  return file;
}

function doctor(env: Record<string, string>): { status: number | null; output: string } {
  const { status, stdout } = spawnSync(process.execPath, [DOCTOR], {
    env: { PATH: folder, ...env },
    cwd: folder,
    encoding: 'utf8',
  });
  return { status, output: stdout };
}

test('without a Python the doctor lists what was tried and fails', () => {
  const { status, output } = doctor({});
  expect(status).toBe(1);
  expect(output).toMatch(/Node \d+\.\d+/);
  expect(output).toMatch(/python3 on PATH: python3\n\s+refused: there is no such program/);
  expect(output).toMatch(/ISTHMUS_PYTHON/);
});

test('with one whose runtime does not start the doctor shows its last words', () => {
  const { status, output } = doctor({ ISTHMUS_PYTHON: fakePython('exits-before-hello') });
  expect(status).toBe(1);
  expect(output).toMatch(/ISTHMUS_PYTHON: .*\n\s+usable, Python 3\.12\.0/);
  expect(output).toMatch(/does not start.*No module named 'mlx'/s);
});

test('with one that works the doctor shows the hello and succeeds', () => {
  const { status, output } = doctor({ ISTHMUS_PYTHON: fakePython('good') });
  expect(output).toMatch(/Runtime 0\.0\.1, protocol 1/);
  expect(output).toMatch(/answers a ping/);
  expect(status).toBe(0);
});
