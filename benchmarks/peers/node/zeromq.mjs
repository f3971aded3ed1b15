/**
 * zeromq to pyzmq over a Unix socket, dealer to dealer: no envelope, any number in flight.
 *
 * A message is one frame of JSON, which is quicker than a frame each for id, method and payload.
 * `send` refuses a second message while a first waits; without a high-water mark none has to wait,
 * and a timeout of 0 keeps it from waiting now and then for the sake of the event loop.
 */

import { Dealer } from 'zeromq';
import { answersById } from './answers.mjs';
import { socketPath, startPython, untilListening } from './python.mjs';

export async function start(python) {
  const path = socketPath();
  const child = startPython(python, 'pyzmq_peer.py', `ipc://${path}`);
  await untilListening(path);
  const socket = new Dealer({
    sendHighWaterMark: 0,
    receiveHighWaterMark: 0,
    sendTimeout: 0,
    linger: 0,
  });
  socket.connect(`ipc://${path}`);
  const { calls, onAnswer } = answersById((message) => socket.send(JSON.stringify(message)));
  receive(socket, onAnswer);
  return {
    ...calls,
    close: () => {
      child.stdin.end();
      socket.close();
    },
  };
}

async function receive(socket, onAnswer) {
  for await (const [frame] of socket) onAnswer(JSON.parse(frame));
}
