/**
 * The states of a runtime object, over all the processes that it has had, as one table.
 *
 *      starting ──► running ◄──► restarting ──► failed
 *          │           │          │    ▲          │
 *          ▼           ▼          ▼    └──────────┤ restart()
 *       failed      closing ◄─────┴───────────────┘
 *                      └──► closed
 */

export type LifeState = 'starting' | 'running' | 'restarting' | 'failed' | 'closing' | 'closed';

/** What may follow each state. */
export const TRANSITIONS: Readonly<Record<LifeState, readonly LifeState[]>> = {
  starting: ['running', 'failed'],
  running: ['restarting', 'closing'],
  restarting: ['running', 'failed', 'closing'],
  failed: ['restarting', 'closing'],
  closing: ['closed'],
  closed: [],
};

export class Life {
  #state: LifeState = 'starting';

  get state(): LifeState {
    return this.#state;
  }

  /** Go to another state; return the one before. Throws a TypeError for a step that is not in the
   * table. */
  to(state: LifeState): LifeState {
    const from = this.#state;
    if (!TRANSITIONS[from].includes(state)) throw new TypeError(`from ${from} to ${state}`);
    this.#state = state;
    return from;
  }
}
