/** Row 65: what a host has in its environment and what callers send stays where it belongs. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { failure, startFaulty, temporaryFolder } from './support.js';

function environmentOf(pid: number): Map<string, string> {
  const text = readFileSync(`/proc/${pid}/environ`, 'utf8');
  const entries = text.split('\0').filter(Boolean);
  return new Map(entries.map((entry) => [entry.split('=', 1)[0] as string, entry]));
}

test('only the allow-list and what was passed reach the runtime', async () => {
  const secrets = ['AWS_SECRET_ACCESS_KEY', 'OPENAI_API_KEY', 'GITHUB_TOKEN', 'LD_PRELOAD'];
  for (const name of [...secrets, 'LD_LIBRARY_PATH', 'PYTHONSTARTUP', 'NODE_OPTIONS_X']) {
    vi.stubEnv(name, 'canary-secret');
  }
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
  const runtime = await startFaulty({ env: { PASSED_ON_PURPOSE: 'yes; $(id)' } });
  const environment = environmentOf(runtime.hello.pid);
  expect([...environment.values()].join('\n')).not.toContain('canary-secret');
  expect(environment.get('PASSED_ON_PURPOSE')).toBe('PASSED_ON_PURPOSE=yes; $(id)');
  expect(environment.has('PATH')).toBe(true);
});

test('no shell sees arguments or sources', async () => {
  const touched = join(temporaryFolder(), 'touched');
  const trick = `$(touch ${touched}); touch ${touched} & "`;
  const runtime = await startFaulty({}, '--pid-file', join(temporaryFolder(), trick.slice(0, 7)));
  const commandLine = readFileSync(`/proc/${runtime.hello.pid}/cmdline`, 'utf8');
  expect(commandLine.split('\0')).toContain('runtime');
  const error = await failure(runtime.loadModel(trick, { localFilesOnly: true }));
  expect(['PATH_REFUSED', 'MODEL_LOAD_FAILED']).toContain(error.code);
  expect(existsSync(touched)).toBe(false);
});

test('a prompt is in no error, no log line and no standard error', async () => {
  const canary = 'canary-prompt-5d1f';
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  await model.generate({ prompt: canary, maxTokens: 2 });
  const errors = [
    await failure(model.generate({ prompt: canary, maxTokens: -1 })),
    await failure(model.tokenize(`${canary}\ud800`)),
    await failure(
      model.applyChatTemplate([{ role: canary, content: 7 }], { templateOptions: 7 as never }),
    ),
  ];
  for (const error of errors) expect(error.message).not.toContain(canary);
  const exit = await failure(runtime.call('fault_exit', { code: 3 }));
  expect(exit.message).not.toContain(canary);
  expect(runtime.stderr).not.toContain(canary);
});
