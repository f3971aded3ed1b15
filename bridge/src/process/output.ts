/**
 * Reads a child's pipe into one buffer that is used again for every read.
 *
 * Node's own `data` events allocate 64 KiB a read, which costs a small reply 1.5 microseconds of 5.
 * `net.Socket` can read into a given buffer (`onread`), but only a socket made with that option, so
 * the pipe's handle is given to a second one. Where there is no such handle, `data` events serve.
 */

import { Socket, type SocketConstructorOpts } from 'node:net';
import type { Readable } from 'node:stream';

interface WithHandle {
  readonly _handle?: object | null;
}

/** Begin to read `pipe`. A chunk is only lent for the call. Return the stream whose `close` tells
 * the end, to be used instead of `pipe`. */
export function readOutput(
  pipe: Readable,
  bufferBytes: number,
  onChunk: (chunk: Buffer) => void,
): Socket {
  const { _handle: handle } = pipe as Readable & WithHandle;
  if (!handle) {
    pipe.on('data', onChunk);
    return pipe as Socket;
  }
  const buffer = Buffer.allocUnsafeSlow(bufferBytes);
  const onread = {
    buffer,
    callback: (count: number): boolean => {
      onChunk(buffer.subarray(0, count));
      return true;
    },
  };
  pipe.on('error', () => undefined);
  const socket = new Socket({ handle, onread, writable: false } as SocketConstructorOpts);
  socket.resume();
  return socket;
}
