/** Row 1: the runtime's output ends inside a frame. */

import { expect, test } from 'vitest';
import { failure, isAlive, ONCE, startFake } from './support.js';

test.each(['000000', '00000005', '0000000593010203', '00000064930203'])(
  'a frame cut after %s settles everything that is pending, and later calls are refused',
  async (bytes) => {
    const runtime = await startFake('raw-exit', bytes, ONCE);
    const errors = await Promise.all([
      failure(runtime.echo(1)),
      failure(runtime.echo(2)),
      failure(runtime.ping()),
    ]);
    for (const error of errors) {
      expect(error.code).toBe('RUNTIME_EXITED');
      expect(error.cause).toMatchObject({
        code: 'REMOTE_PROTOCOL_ERROR',
        details: { kind: 'truncated' },
      });
    }
    const later = await failure(runtime.echo(3));
    expect(['RUNTIME_EXITED', 'REMOTE_PROTOCOL_ERROR']).toContain(later.code);
    await runtime.closed;
    expect(isAlive(runtime.hello.pid)).toBe(false);
  },
);
