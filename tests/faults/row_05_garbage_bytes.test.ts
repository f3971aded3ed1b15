/** Row 5: what the runtime writes is no protocol at all. */

import { expect, test } from 'vitest';
import { createRuntime, type IsthmusError } from '../../bridge/dist/index.js';
import {
  ENVIRONMENT,
  failure,
  fakeCommand,
  isAlive,
  ONCE,
  PYTHON,
  startFake,
  waitUntil,
} from './support.js';

function shownBytes(error: IsthmusError): unknown {
  return error.details.bytes;
}

test('a megabyte of garbage instead of a hello is shown by its first 32 bytes', async () => {
  const error = await failure(
    createRuntime({ command: fakeCommand('garbage', '5'), env: ENVIRONMENT }),
  );
  expect(error.code).toBe('FRAME_TOO_LARGE');
  expect(shownBytes(error)).toMatch(/^[0-9a-f]{64}$/);
  expect(error.message).toContain(String(shownBytes(error)));
});

test('a program that is no runtime is recognised by what it prints', async () => {
  const command = [PYTHON, '-c', 'print("Hello, I am a web server", flush=True); input()'] as const;
  const error = await failure(createRuntime({ command: [...command], env: ENVIRONMENT }));
  const shown = Buffer.from(String(shownBytes(error)), 'hex').toString();
  expect(shown).toBe('Hello, I am a web server\n');
});

test('garbage in mid-connection settles what is pending and ends the process', async () => {
  const runtime = await startFake('raw', 'deadbeef'.repeat(1_000), ONCE);
  const errors = await Promise.all([failure(runtime.echo(1)), failure(runtime.echo(2))]);
  for (const error of errors) {
    expect(error.code).toBe('RUNTIME_EXITED');
    expect(error.message).toContain('deadbeef'.repeat(8));
    expect((error.cause as IsthmusError).details.bytes).toBe('deadbeef'.repeat(8));
  }
  await waitUntil(() => !isAlive(runtime.hello.pid), 'the child is gone');
});

test.each(['c1', 'ffff', '92', '93030102', 'a161'])(
  'a frame whose payload is %s ends the connection, for it belongs to nobody',
  async (payload) => {
    const length = (payload.length / 2).toString(16).padStart(8, '0');
    const runtime = await startFake('raw', length + payload, ONCE);
    const errors = await Promise.all([failure(runtime.echo(1)), failure(runtime.echo(2))]);
    expect(errors.map((error) => error.code)).toEqual(['RUNTIME_EXITED', 'RUNTIME_EXITED']);
  },
);
