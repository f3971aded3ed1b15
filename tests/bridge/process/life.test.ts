import { expect, test } from 'vitest';
import { Life, type LifeState, TRANSITIONS } from '../../../bridge/src/process/life.js';

const STATES = Object.keys(TRANSITIONS) as LifeState[];

/** The shortest way to a state. */
const WAYS: Record<LifeState, LifeState[]> = {
  starting: [],
  running: ['running'],
  restarting: ['running', 'restarting'],
  failed: ['running', 'restarting', 'failed'],
  closing: ['running', 'closing'],
  closed: ['running', 'closing', 'closed'],
};

test.each(STATES)('from %s only what the table says follows', (from) => {
  for (const to of STATES) {
    const life = new Life();
    for (const step of WAYS[from]) life.to(step);
    expect(life.state).toBe(from);
    if (TRANSITIONS[from].includes(to)) {
      expect(life.to(to)).toBe(from);
      expect(life.state).toBe(to);
    } else {
      expect(() => life.to(to)).toThrow(TypeError);
      expect(life.state).toBe(from);
    }
  }
});

test('what is closed stays closed', () => {
  expect(TRANSITIONS.closed).toEqual([]);
});
