import { describe, expect, test } from 'vitest';
import { Phase } from '../../../bridge/src/connection/request.js';
import { StreamIterator, TokenStream } from '../../../bridge/src/connection/token-stream.js';
import { IsthmusError } from '../../../bridge/src/errors.js';
import { failure } from '../support.js';

function open(window = 8) {
  const grants: number[] = [];
  const ends: string[] = [];
  const control = {
    grant: (_: unknown, count: number) => void grants.push(count),
    cancel: () => void ends.push('cancel'),
    abandon: () => void ends.push('abandon'),
  };
  const stream = new TokenStream<number>(control, window, (payload) => payload as number[]);
  stream.phase = Phase.SENT;
  const deliver = (...items: number[]): void => stream.deliver(items.length, items);
  const finish = (): void => {
    stream.phase = Phase.SETTLED;
    stream.succeed(null);
  };
  return { stream, grants, ends, deliver, finish };
}

describe('items', () => {
  test('come in the order of their arrival, waited for or not', async () => {
    const { stream, deliver, finish } = open();
    const waiting = [stream.next(), stream.next()];
    deliver(1, 2, 3);
    deliver(4);
    finish();
    expect(await Promise.all(waiting)).toEqual([
      { value: 1, done: false },
      { value: 2, done: false },
    ]);
    const rest: number[] = [];
    for await (const item of new StreamIterator(stream)) rest.push(item);
    expect(rest).toEqual([3, 4]);
  });

  test('that arrived come before the error, which comes once', async () => {
    const { stream, deliver } = open();
    deliver(1);
    stream.fail(new IsthmusError('INTERNAL', 'broken'));
    expect(await stream.next()).toEqual({ value: 1, done: false });
    expect((await failure(stream.next())).message).toBe('broken');
    expect(await stream.next()).toEqual({ value: undefined, done: true });
  });

  test('beyond the credit are a broken protocol', () => {
    const { deliver } = open(3);
    deliver(1, 2);
    expect(() => deliver(3, 4)).toThrow(/more than it was granted/);
  });
});

describe('credit', () => {
  test('is given back in halves of the window, and only for what was taken', async () => {
    const { stream, grants, deliver } = open(8);
    deliver(1, 2, 3);
    deliver(4, 5, 6);
    for (let taken = 0; taken < 5; taken++) await stream.next();
    expect(grants).toEqual([]);
    await stream.next();
    expect(grants).toEqual([6]);
  });

  test('never runs dry for a consumer that takes everything, whatever the window', async () => {
    for (const window of [1, 2, 3, 7, 256]) {
      const { stream, grants, deliver } = open(window);
      let credit = window;
      let granted = 0;
      for (let sent = 0; sent < 1_000; sent++) {
        expect(credit).toBeGreaterThan(0);
        deliver(sent);
        credit--;
        await stream.next();
        for (; granted < grants.length; granted++) credit += grants[granted] as number;
      }
    }
  });

  test('follows arrival once the end is waited for', () => {
    const { stream, grants, deliver } = open(4);
    deliver(1);
    stream.flow();
    expect(grants).toEqual([]);
    deliver(2);
    deliver(3, 4);
    expect(grants).toEqual([2, 2]);
  });

  test('is not granted after the end', async () => {
    const { stream, grants, deliver, finish } = open(2);
    deliver(1, 2);
    finish();
    await stream.next();
    await stream.next();
    expect(grants).toEqual([]);
  });
});

describe('a consumer that leaves', () => {
  test('ends the request once and takes nothing more', async () => {
    const { stream, ends, deliver } = open();
    deliver(1, 2, 3);
    for await (const item of new StreamIterator(stream)) if (item === 2) break;
    stream.phase = Phase.SETTLED;
    stream.stop();
    expect(ends).toEqual(['abandon']);
    expect(await stream.next()).toEqual({ value: undefined, done: true });
  });

  test('by throwing ends it too, and the error stays the thrown one', async () => {
    const { stream, ends, deliver } = open();
    deliver(1);
    const loop = async (): Promise<void> => {
      for await (const _ of new StreamIterator(stream)) throw new Error('mine');
    };
    await expect(loop()).rejects.toThrow('mine');
    expect(ends).toEqual(['abandon']);
    await expect(new StreamIterator(stream).throw(new Error('yours'))).rejects.toThrow('yours');
  });

  test('after the end leaves nothing to end', async () => {
    const { stream, ends, finish } = open();
    finish();
    await new StreamIterator(stream).return();
    expect(ends).toEqual([]);
  });

  test('while it waits is told that nothing follows', async () => {
    const { stream } = open();
    const next = stream.next();
    stream.stop();
    expect(await next).toEqual({ value: undefined, done: true });
  });
});
