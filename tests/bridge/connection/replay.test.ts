import { describe, expect, test } from 'vitest';
import { IDEMPOTENT, isRepeatable, RetryBudget } from '../../../bridge/src/connection/replay.js';
import { Call } from '../../../bridge/src/connection/request.js';

const nothing = (): void => undefined;

function request(method: string, changes: object = {}): Call<void> {
  return Object.assign(new Call<void>(nothing, nothing, nothing), { method, ...changes });
}

describe('a request that was written', () => {
  test.each([...IDEMPOTENT])('may be repeated when it is %s', (method) => {
    expect(isRepeatable(request(method))).toBe(true);
  });

  test.each([
    ...['load_model', 'unload_model', 'set_circuit', 'inject_fault'],
    ...['fork_session', 'truncate_session', 'delete_session', 'a method of tomorrow'],
  ])('is not repeated when it is %s', (method) => {
    expect(isRepeatable(request(method))).toBe(false);
  });

  test.each([
    ...['open_session', 'save_session', 'evict_session', 'list_sessions', 'session_stats'],
  ])('of sessions may be repeated when it is %s', (method) => {
    expect(isRepeatable(request(method))).toBe(true);
  });

  test('is not repeated after a delta, a cancel, or once', () => {
    expect(isRepeatable(request('generate', { isDelivered: true }))).toBe(false);
    expect(isRepeatable(request('generate', { isCancelSent: true }))).toBe(false);
    expect(isRepeatable(request('generate', { replays: 1 }))).toBe(false);
  });
});

describe('the retry budget', () => {
  test('gives tokens down to half of the bucket', () => {
    const budget = new RetryBudget();
    const given = Array.from({ length: 80 }, () => budget.take(0)).filter(Boolean);
    expect(given).toHaveLength(50);
    expect([budget.replayed, budget.refused, budget.tokens(0)]).toEqual([50, 30, 50]);
  });

  test('gets a tenth back for a success, and is never more than full', () => {
    const budget = new RetryBudget();
    for (let takes = 0; takes < 60; takes++) budget.take(0);
    expect(budget.take(9)).toBe(true);
    expect(budget.take(10)).toBe(false);
    expect(budget.tokens(10_000)).toBe(100);
  });
});
