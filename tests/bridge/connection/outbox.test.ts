import { describe, expect, test } from 'vitest';
import { Outbox } from '../../../bridge/src/connection/outbox.js';
import { PIECE_BYTES } from '../../../bridge/src/limits.js';
import { Encoder } from '../../../bridge/src/wire/encoder.js';
import { writePing } from '../../../bridge/src/wire/messages.js';
import { FakePipe, FakeRuntime, failure, type Message, turn } from '../support.js';

const LARGE = 3 * PIECE_BYTES;

/** Take one write after the other from a pipe that is always full. */
async function drainOneByOne(runtime: FakeRuntime): Promise<Message[]> {
  const all: Message[] = [];
  for (let writes = 0; writes < 200; writes++) {
    await turn();
    runtime.pipe.takeOne();
    all.push(...runtime.receivedNow());
  }
  return all;
}

const kinds = (messages: Message[]): number[] => messages.map(([kind]) => kind);
const ignore = (promise: Promise<unknown>): void => void promise.catch(() => undefined);

test('the calls of one turn leave in one write, also those of promise continuations', async () => {
  const runtime = new FakeRuntime();
  await turn();
  runtime.pipe.chunks = [];
  ignore(runtime.connection.call('echo', { data: 0 }, Boolean));
  await Promise.resolve();
  ignore(runtime.connection.call('echo', { data: 1 }, Boolean));
  await Promise.resolve().then(() => ignore(runtime.connection.ping()));
  expect(runtime.pipe.chunks).toHaveLength(0);
  await turn();
  expect(runtime.pipe.chunks).toHaveLength(1);
  expect(kinds(runtime.receivedNow())).toEqual([1, 1, 9]);
});

describe('a pipe that takes nothing', () => {
  test('is not written to until it drains', async () => {
    const runtime = new FakeRuntime();
    runtime.pipe.isHolding = true;
    await turn();
    for (let index = 0; index < 50; index++) {
      ignore(runtime.connection.call('echo', { data: 'x'.repeat(1_000) }, Boolean));
      await turn();
    }
    expect(runtime.pipe.writableLength).toBeLessThan(40_000);
    runtime.pipe.release();
    const received = await runtime.received();
    expect(received.map(([, id]) => id)).toEqual(Array.from({ length: 50 }, (_, index) => index));
    expect(runtime.connection.queuedBytes).toBe(0);
  });

  test('and goes with its process lets those go on who waited for it', async () => {
    let turns = 0;
    const limits = { messageBytes: 1_000, pieceBytes: 1_000, queuedBytes: 1_000 };
    const outbox = new Outbox(new Encoder(1_000), limits, () => turns++);
    const pipe = new FakePipe();
    pipe.isHolding = true;
    outbox.attach(pipe);
    for (let writes = 0; writes < 2; writes++) {
      outbox.control((encoder) => writePing(encoder, 0));
      await turn();
    }
    const before = turns;
    outbox.wake();
    await turn();
    expect(turns).toBe(before);
    outbox.detach();
    await turn();
    expect(turns).toBe(before + 1);
    expect(outbox.queuedBytes).toBe(0);
  });

  test('has what waits counted, and refuses more than the limit', async () => {
    const runtime = new FakeRuntime({ maxQueuedBytes: 100_000 });
    runtime.pipe.isHolding = true;
    await turn();
    ignore(runtime.connection.call('echo', { data: new Uint8Array(LARGE) }, Boolean));
    const refused = await failure(runtime.connection.call('echo', { data: 1 }, Boolean));
    expect(refused).toMatchObject({ code: 'QUEUE_FULL', retryable: true, phase: 'queue' });
    runtime.pipe.release();
    for (let writes = 0; writes < 10; writes++) await turn();
    expect(runtime.connection.queuedBytes).toBe(0);
    const call = runtime.connection.call('echo', { data: 1 }, (value) => value);
    runtime.receivedNow();
    runtime.send([2, 1, 'taken']);
    expect(await call).toBe('taken');
  });
});

describe('a message over the piece limit', () => {
  test('travels in pieces that add up to it', async () => {
    const runtime = new FakeRuntime();
    const data = new Uint8Array(LARGE).map((_, index) => index % 251);
    ignore(runtime.connection.call('echo', { data }, Boolean));
    const pieces: Message[] = [];
    while (pieces.at(-1)?.[2] !== 1) pieces.push(...(await runtime.received()));
    expect(pieces.every(([kind, channel]) => kind === 11 && channel === 0)).toBe(true);
    const parts = pieces.map(([, , , part]) => part as Uint8Array);
    expect(Math.max(...parts.map(({ length }) => length))).toBe(PIECE_BYTES);
    // The same bytes as a message, pushed back as pieces of a result.
    const payload = Buffer.concat(parts);
    expect(payload.subarray(payload.length - LARGE)).toEqual(Buffer.from(data));
  });

  test('is overtaken by small ones, and shares the pipe with other large ones', async () => {
    const runtime = new FakeRuntime();
    await turn();
    runtime.pipe.isHolding = true;
    ignore(runtime.connection.call('echo', { data: new Uint8Array(LARGE) }, Boolean));
    ignore(runtime.connection.call('echo', { data: new Uint8Array(LARGE) }, Boolean));
    await turn();
    ignore(runtime.connection.call('echo', { data: 'small' }, Boolean));
    const received = await drainOneByOne(runtime);
    expect(kinds(received).indexOf(1)).toBeLessThan(3);
    const channels = received.filter(([kind]) => kind === 11).map(([, channel]) => channel);
    expect(channels.slice(0, 4)).toEqual([0, 1, 0, 1]);
    expect(channels).toHaveLength(8);
  });

  test('never opens more channels than the runtime allows', async () => {
    const runtime = new FakeRuntime();
    for (let index = 0; index < 100; index++) {
      ignore(runtime.connection.call('echo', { data: new Uint8Array(2 * PIECE_BYTES) }, Boolean));
    }
    const open = new Set<unknown>();
    let most = 0;
    let ended = 0;
    while (ended < 100) {
      for (const [, channel, flag] of await runtime.received()) {
        if (flag === 0) open.add(channel);
        else if (open.delete(channel)) ended++;
        most = Math.max(most, open.size);
      }
    }
    expect(most).toBeLessThanOrEqual(16);
  });

  test('over the message limit fails its request alone, before anything is sent', async () => {
    const runtime = new FakeRuntime({ limits: { message_bytes: 100_000 } });
    const error = await failure(
      runtime.connection.call('echo', { data: new Uint8Array(100_000) }, Boolean),
    );
    expect(error).toMatchObject({ code: 'LOCAL_PROTOCOL_ERROR', retryable: false });
    const call = runtime.connection.call('echo', { data: 1 }, (value) => value);
    expect(await runtime.received()).toEqual([[1, 0, 'echo', { data: 1 }]]);
    runtime.send([2, 0, 1]);
    expect(await call).toBe(1);
  });

  test('far over the limit is refused without being written down', async () => {
    const runtime = new FakeRuntime();
    const before = process.memoryUsage().arrayBuffers;
    const data = 'x'.repeat(400 << 20);
    const error = await failure(runtime.connection.call('echo', { data }, Boolean));
    expect(error.code).toBe('LOCAL_PROTOCOL_ERROR');
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
  });

  test('is taken back when it is cancelled before all of it was sent', async () => {
    const runtime = new FakeRuntime();
    await turn();
    runtime.pipe.isHolding = true;
    const [first, second] = [new AbortController(), new AbortController()];
    const data = new Uint8Array(LARGE);
    const calls = [first, second].map(({ signal }) =>
      failure(runtime.connection.call('echo', { data }, Boolean, { signal })),
    );
    await turn();
    first.abort();
    second.abort();
    expect((await calls[0])?.name).toBe('AbortError');
    expect((await calls[1])?.name).toBe('AbortError');
    const received = await drainOneByOne(runtime);
    // One piece of the first was on its way; of the second nothing, and no cancel for either.
    expect(received.map(([kind, channel, flag]) => [kind, channel, flag])).toEqual([
      [11, 0, 0],
      [11, 0, 2],
    ]);
    expect(runtime.connection.queuedBytes).toBe(0);
  });
});
