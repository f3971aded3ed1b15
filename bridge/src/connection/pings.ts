/** Pings that wait for their pong, by the number that both carry: the caller's and the watchdog's. */

import type { IsthmusError } from '../errors.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { Call } from './request.js';

const identity = (health: Value): WireMap => health as WireMap;

export class Pings {
  readonly #waiting = new Map<Value, Call<WireMap>>();
  readonly #probes = new Map<Value, (health: WireMap) => void>();
  #nextNonce = 0;

  /** Add a ping that settles by the given functions; return its number. */
  add(resolve: (health: WireMap) => void, reject: (error: unknown) => void): number {
    const nonce = this.#nextNonce++;
    this.#waiting.set(nonce, new Call(identity, resolve, reject));
    return nonce;
  }

  /** Add a ping that nobody waits for; return its number. */
  addProbe(onHealth: (health: WireMap) => void): number {
    const nonce = this.#nextNonce++;
    this.#probes.set(nonce, onHealth);
    return nonce;
  }

  /** Settle what a pong is for; say what that was. */
  answer(nonce: Value, health: WireMap): 'ping' | 'probe' | 'nothing' {
    const probe = this.#probes.get(nonce);
    if (probe !== undefined) {
      this.#probes.delete(nonce);
      probe(health);
      return 'probe';
    }
    const ping = this.#waiting.get(nonce);
    this.#waiting.delete(nonce);
    ping?.succeed(health);
    return ping === undefined ? 'nothing' : 'ping';
  }

  /** Reject all of them, each with its own error; return how many callers waited. */
  fail(makeError: () => IsthmusError): number {
    const pings = [...this.#waiting.values()];
    this.#waiting.clear();
    this.#probes.clear();
    for (const ping of pings) ping.fail(makeError());
    return pings.length;
  }
}
