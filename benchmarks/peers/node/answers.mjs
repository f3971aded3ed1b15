/**
 * Calls for the packages that only send messages: `[id, method, parameter]` there, `[id, answer]`
 * back, for a stream once a chunk.
 */

/** The calls, given what sends a message, and what has to be told of each answer. */
export function answersById(send) {
  const pending = new Map();
  let nextId = 0;

  const begin = (method, parameter, take) => {
    const id = nextId++;
    pending.set(id, take);
    send([id, method, parameter]);
  };
  const request = (method, parameter) =>
    new Promise((resolve) => {
      begin(method, parameter, (answer, id) => {
        pending.delete(id);
        resolve(answer);
      });
    });
  const stream = (count, take) =>
    new Promise((resolve) => {
      let left = count;
      begin('stream', count, (index, id) => {
        take(index);
        left -= 1;
        if (left > 0) return;
        pending.delete(id);
        resolve();
      });
    });

  return {
    calls: {
      echo: (text) => request('echo', text),
      tokenize: (text) => request('tokenize', text),
      stream,
    },
    onAnswer: ([id, answer]) => pending.get(id)(answer, id),
  };
}
