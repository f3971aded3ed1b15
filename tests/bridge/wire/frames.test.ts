import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FrameDecoder } from '../../../bridge/src/wire/frames.js';
import { frame, vectors } from '../support.js';

interface Vector {
  readonly name: string;
  readonly limit: number;
  readonly chunks: string[];
  readonly frames: string[];
  readonly error?: string;
  readonly eof?: true;
}

/** Decode chunks; return the frames as hex and the code of what was thrown. */
function run(chunks: readonly Buffer[], limit: number, isEnded = false) {
  const frames: string[] = [];
  const decoder = new FrameDecoder(limit, (buffer, start, end) => {
    frames.push(buffer.toString('hex', start, end));
  });
  try {
    for (const chunk of chunks) decoder.push(chunk);
    if (isEnded) decoder.end();
    return { frames, error: undefined };
  } catch (error) {
    return { frames, error: (error as { code: string }).code };
  }
}

test.each(vectors<Vector>('frames'))('$name', ({ limit, chunks, frames, error, eof }) => {
  const buffers = chunks.map((chunk) => Buffer.from(chunk, 'hex'));
  expect(run(buffers, limit, eof)).toEqual({ frames, error });
});

describe('however the bytes are cut', () => {
  const payloads = fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 12 });

  test('the frames are the same', () => {
    fc.assert(
      fc.property(payloads, fc.array(fc.nat(400)), (inputs, cuts) => {
        const whole = Buffer.concat(inputs.map((input) => frame(Buffer.from(input))));
        const at = [0, ...cuts.filter((cut) => cut < whole.length).sort((a, b) => a - b)];
        const chunks = at.map((start, index) => whole.subarray(start, at[index + 1]));
        const expected = inputs.map((input) => Buffer.from(input).toString('hex'));
        expect(run(chunks, 1_000, true)).toEqual({ frames: expected, error: undefined });
      }),
    );
  });

  test('each byte of a large frame is copied a bounded number of times', () => {
    const payload = Buffer.alloc(4_000_000, 7);
    const whole = frame(payload);
    let copied = 0;
    const chunks: Buffer[] = [];
    for (let start = 0; start < whole.length; start += 1_000) {
      const chunk = whole.subarray(start, start + 1_000);
      const copy = chunk.copy.bind(chunk);
      chunk.copy = (target, ...rest) => {
        const count = copy(target, ...rest);
        copied += count;
        return count;
      };
      chunks.push(chunk);
    }
    let size = 0;
    const decoder = new FrameDecoder(1 << 24, (_buffer, start, end) => {
      size = end - start;
    });
    for (const chunk of chunks) decoder.push(chunk);
    expect(size).toBe(payload.length);
    expect(copied).toBe(whole.length);
  });
});

describe('a refused frame', () => {
  test('takes no memory', () => {
    const before = process.memoryUsage().arrayBuffers;
    run([Buffer.from('00ffffff', 'hex'), Buffer.alloc(10)], 1 << 24);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
    expect(run([Buffer.from('ffffffff', 'hex')], 1 << 24).error).toBe('FRAME_TOO_LARGE');
  });

  test('is the last: what follows is not read', () => {
    const seen: number[] = [];
    const decoder = new FrameDecoder(100, (_buffer, start) => seen.push(start));
    expect(() => decoder.push(Buffer.from('00000000', 'hex'))).toThrow();
    decoder.push(frame(Buffer.from([1])));
    decoder.end();
    expect(seen).toEqual([]);
  });

  test('shows its first bytes', () => {
    const decoder = new FrameDecoder(100, () => undefined);
    expect(() => decoder.push(Buffer.from('Traceback'))).toThrow(/54726163656261636b/);
  });
});
