import { describe, expect, test } from 'vitest';
import {
  DEFAULT_RESTARTS,
  type RestartOptions,
  RestartPolicy,
} from '../../../bridge/src/process/restart-policy.js';
import { camelCase } from '../../../bridge/src/wire/fields.js';
import { vectors } from '../support.js';

interface Step {
  readonly clear?: true;
  readonly now_ms: number;
  readonly healthy_for_ms: number;
  readonly random: number;
  readonly delay_ms: number | null;
}

interface Case {
  readonly name: string;
  readonly options?: Record<string, number>;
  readonly steps: readonly Step[];
}

describe('the restart policy', () => {
  test.each(vectors<Case>('restarts'))('$name', ({ options = {}, steps }) => {
    const named = Object.entries(options).map(([name, value]) => [camelCase(name), value]);
    let random = 0;
    const all = { ...DEFAULT_RESTARTS, ...Object.fromEntries(named) } as RestartOptions;
    const policy = new RestartPolicy(all, () => random);
    for (const step of steps) {
      random = step.random;
      if (step.clear) policy.clear();
      else expect(policy.next(step.now_ms, step.healthy_for_ms) ?? null).toBe(step.delay_ms);
    }
  });

  test('never lets more restarts begin within its window than its limit', () => {
    const policy = new RestartPolicy(DEFAULT_RESTARTS, () => 1);
    const begun: number[] = [];
    for (let now = 0; now < 600_000; now += 500) {
      if (policy.next(now, 10_000) !== undefined) begun.push(now);
    }
    for (const at of begun) {
      expect(begun.filter((other) => other >= at && other < at + 60_000).length).toBeLessThan(4);
    }
    expect(begun.length).toBe(30);
  });
});
