/** Row 3: the runtime announces a frame over the limit. */

import { expect, test } from 'vitest';
import { failure, isAlive, ONCE, startFake } from './support.js';

test.each(['ffffffff', '01000001'])(
  'the header %s is refused before memory is taken, and the runtime is ended',
  async (header) => {
    const runtime = await startFake('raw', header, ONCE);
    const before = process.memoryUsage().arrayBuffers;
    const errors = await Promise.all([failure(runtime.echo(1)), failure(runtime.echo(2))]);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
    for (const error of errors) {
      expect(error.code).toBe('RUNTIME_EXITED');
      expect(error.cause).toMatchObject({
        code: 'FRAME_TOO_LARGE',
        details: { length: Number.parseInt(header, 16), limit: 1 << 24 },
      });
    }
    await runtime.closed;
    expect(isAlive(runtime.hello.pid)).toBe(false);
  },
);
