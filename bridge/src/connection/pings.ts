/** Pings that wait for their pong, by the number that both carry. */

import type { IsthmusError } from '../errors.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { Call } from './request.js';

const identity = (health: Value): WireMap => health as WireMap;

export class Pings {
  readonly #waiting = new Map<Value, Call<WireMap>>();
  #nextNonce = 0;

  /** Add a ping that settles by the given functions; return its number. */
  add(resolve: (health: WireMap) => void, reject: (error: unknown) => void): number {
    const nonce = this.#nextNonce++;
    this.#waiting.set(nonce, new Call(identity, resolve, reject));
    return nonce;
  }

  /** Settle a ping; say whether there was one. */
  answer(nonce: Value, health: WireMap): boolean {
    const ping = this.#waiting.get(nonce);
    this.#waiting.delete(nonce);
    ping?.succeed(health);
    return ping !== undefined;
  }

  /** Reject all of them, each with its own error; return how many there were. */
  fail(makeError: () => IsthmusError): number {
    const pings = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const ping of pings) ping.fail(makeError());
    return pings.length;
  }
}
