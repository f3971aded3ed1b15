/** What the host's tests share: an in-process runtime, vectors, and waiting without sleeping. */

import { readFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { Connection } from '../../bridge/src/connection/connection.js';
import type { ConnectionOptions, ProcessEnd } from '../../bridge/src/connection/events.js';
import type { Link } from '../../bridge/src/connection/link.js';
import { copyError, IsthmusError, RuntimeExitedError } from '../../bridge/src/errors.js';
import { decode, encode } from '../../bridge/src/wire/codec.js';
import type { Value, WireMap } from '../../bridge/src/wire/decoder.js';
import { FrameDecoder } from '../../bridge/src/wire/frames.js';

export const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export function vectors<T>(name: string): T[] {
  return JSON.parse(readFileSync(here(`../vectors/${name}.json`), 'utf8')) as T[];
}

/** Turn a value of the vector files into the one it stands for. */
export function revive(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(revive);
  if (typeof value !== 'object' || value === null) return value;
  const map = value as Record<string, unknown>;
  if (typeof map.$bin === 'string') return new Uint8Array(Buffer.from(map.$bin, 'base64'));
  if (typeof map.$float === 'string') return FLOATS[map.$float];
  return Object.fromEntries(Object.entries(map).map(([key, inner]) => [key, revive(inner)]));
}

const FLOATS: Record<string, number> = {
  nan: Number.NaN,
  inf: Number.POSITIVE_INFINITY,
  '-inf': Number.NEGATIVE_INFINITY,
};

export function frame(payload: Buffer): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt32BE(payload.length);
  return Buffer.concat([header, payload]);
}

/** One turn of the event loop: everything that was scheduled for it has run. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The error that a promise rejects with, or a call throws. */
export async function failure(
  attempt: PromiseLike<unknown> | (() => unknown),
): Promise<IsthmusError> {
  try {
    await (typeof attempt === 'function' ? attempt() : attempt);
  } catch (error) {
    expect(error).toBeInstanceOf(IsthmusError);
    return error as IsthmusError;
  }
  return expect.fail('nothing was thrown');
}

/** A pipe that gathers writes, and can be held as a full one is. */
export class FakePipe extends Writable {
  chunks: Buffer[] = [];
  #held: (() => void) | undefined;
  isHolding = false;

  constructor() {
    super({ highWaterMark: 16 * 1024 });
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.chunks.push(Buffer.from(chunk));
    if (this.isHolding) this.#held = done;
    else done();
  }

  /** Take the write that is held; the next one is held again. */
  takeOne(): void {
    const done = this.#held;
    this.#held = undefined;
    done?.();
  }

  release(): void {
    this.isHolding = false;
    this.takeOne();
  }
}

export type Message = [kind: number, ...elements: Value[]];

/** The error of a process that was killed. */
export const killed = (isSent = true): IsthmusError =>
  new RuntimeExitedError(
    'the runtime was ended by SIGKILL',
    { exitCode: null, signal: 'SIGKILL', stderrTail: 'why' },
    { details: { sent: isSent } },
  );

/** The end of a process that was killed, and that another one follows. */
export const KILLED: ProcessEnd = { hasNext: true, hasCrashed: true, makeError: killed };

/** The runtime's end of a connection, in the same process. */
export class FakeRuntime {
  pipe = new FakePipe();
  link: Link;
  readonly connection: Connection;
  readonly broken: IsthmusError[] = [];
  readonly events: [string, Value][] = [];
  readonly busy: boolean[] = [];
  readonly #messages: Message[] = [];
  readonly #limits: WireMap;
  #frames = this.#newFrames();

  constructor(options: ConnectionOptions & { limits?: WireMap; hello?: boolean } = {}) {
    this.connection = new Connection(
      {
        onHello: () => undefined,
        onBroken: (error) => {
          this.broken.push(error);
          this.connection.refuse(() => copyError(error));
        },
        onEvent: (name, payload) => this.events.push([name, payload]),
        onBusy: (isBusy) => this.busy.push(isBusy),
      },
      options,
    );
    this.#limits = options.limits ?? {};
    this.link = this.connection.attach(this.pipe);
    if (options.hello !== false) this.hello();
  }

  #newFrames(): FrameDecoder {
    return new FrameDecoder(1 << 24, (buffer, start, end) => {
      this.#messages.push(decode(Buffer.from(buffer.subarray(start, end))) as Message);
    });
  }

  hello(): void {
    this.send([0, { protocol: 1, limits: this.#limits }]);
  }

  /** The process is killed; `revive` begins another. */
  die(end: ProcessEnd = KILLED): void {
    this.connection.detach(end);
  }

  /** The last process ends. */
  end(makeError: (isSent: boolean) => IsthmusError): void {
    this.die({ hasNext: false, hasCrashed: true, makeError });
    this.connection.refuse(() => makeError(false));
    this.connection.rejectKept(() => makeError(false));
  }

  /** Another process begins, and says hello. */
  revive(): void {
    this.pipe = new FakePipe();
    this.#frames = this.#newFrames();
    this.#messages.length = 0;
    this.link = this.connection.attach(this.pipe);
    this.hello();
  }

  send(...messages: unknown[][]): void {
    this.link.push(Buffer.concat(messages.map((message) => frame(encode(message)))));
  }

  sendRaw(hex: string): void {
    this.link.push(frame(Buffer.from(hex, 'hex')));
  }

  /** What the host has written since the last call, but for its hello. */
  async received(): Promise<Message[]> {
    await turn();
    return this.receivedNow();
  }

  receivedNow(): Message[] {
    for (const chunk of this.pipe.chunks.splice(0)) this.#frames.push(chunk);
    return this.#messages.splice(0).filter(([kind]) => kind !== 0);
  }
}
