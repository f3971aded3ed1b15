/** Row 4: our own request is over the limit. */

import { expect, test } from 'vitest';
import { ProtocolError } from '../../bridge/dist/index.js';
import { failure, startFake } from './support.js';

const GIB = 2 ** 30;

test('a gigabyte fails at the caller, nothing is sent, and the connection lives', async () => {
  const runtime = await startFake('echo');
  const bystander = runtime.echo('bystander');
  const oversized = [
    runtime.echo(new Uint8Array(GIB)),
    runtime.call('generate', { model: 'm', prompt: 'x'.repeat(2 ** 29 - 25) }),
    runtime.echo(Array.from({ length: 20 }, () => new Uint8Array(4 << 20))),
  ];
  for (const error of await Promise.all(oversized.map(failure))) {
    expect(error).toBeInstanceOf(ProtocolError);
    expect(error.code).toBe('LOCAL_PROTOCOL_ERROR');
    expect(error.message).toContain('nothing was sent');
  }
  expect(await bystander).toBe('bystander');
  expect(runtime.counters.queuedBytes).toBe(0);
  expect(await runtime.echo('still here')).toBe('still here');
});

test('a message just below the limit travels in pieces', async () => {
  const runtime = await startFake('silent');
  const large = failure(runtime.echo(new Uint8Array((1 << 26) - 100)));
  await runtime.ping();
  await runtime.close();
  expect((await large).code).toBe('RUNTIME_EXITED');
});

test.each([[10n ** 30n], [2 ** 53], [Symbol('s')], [() => 1]])(
  'a value that the wire cannot carry (%s) fails at the caller',
  async (value) => {
    const runtime = await startFake('echo');
    expect((await failure(runtime.echo({ value }))).code).toBe('INVALID_REQUEST');
    expect(await runtime.echo('still here')).toBe('still here');
  },
);
