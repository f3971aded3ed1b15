import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Deadlines } from '../../../bridge/src/connection/deadlines.js';
import { Call, Phase, type Request } from '../../../bridge/src/connection/request.js';
import { DEADLINE_GRACE_MS } from '../../../bridge/src/limits.js';

const nothing = (): void => undefined;

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate'] }));
afterEach(() => void vi.useRealTimers());

function setUp() {
  let now = 1_000;
  const expired: Request[] = [];
  const deadlines = new Deadlines(
    (request) => {
      expired.push(request);
      request.phase = Phase.SETTLED;
      deadlines.remove(request);
    },
    () => now,
  );
  const add = (deadlineMs: number): Request => {
    const request = new Call<void>(nothing, nothing, nothing);
    request.phase = Phase.SENT;
    deadlines.add(request, deadlineMs);
    return request;
  };
  const pass = (ms: number): void => {
    now += ms;
    vi.advanceTimersByTime(ms);
  };
  return { deadlines, expired, add, pass };
}

test('a request expires once its deadline and the grace of the answer have passed', () => {
  const { expired, add, pass } = setUp();
  const request = add(50);
  pass(50 + DEADLINE_GRACE_MS - 1);
  expect(expired).toEqual([]);
  pass(20);
  expect(expired).toEqual([request]);
});

test('one timer serves all, also when an earlier deadline comes later', () => {
  const { expired, add, pass } = setUp();
  const [late, early, middle] = [add(5_000), add(10), add(100)];
  expect(vi.getTimerCount()).toBe(1);
  pass(10 + DEADLINE_GRACE_MS + 20);
  expect(expired).toEqual([early]);
  pass(100);
  expect(expired).toEqual([early, middle]);
  pass(5_000);
  expect(expired).toEqual([early, middle, late]);
  expect(vi.getTimerCount()).toBe(0);
});

test('a request that was answered does not expire, and no timer stays', () => {
  const { deadlines, expired, add, pass } = setUp();
  const [first, second, third] = [add(10), add(20), add(30)];
  deadlines.remove(second);
  deadlines.remove(first);
  pass(1_000);
  expect(expired).toEqual([third]);
  expect(vi.getTimerCount()).toBe(0);
});

test('after a blocked event loop the replies in the pipe are read first', () => {
  const { deadlines, expired, add } = setUp();
  const request = add(10);
  vi.advanceTimersToNextTimer();
  // The sweep waits for the turn's input, which brings the answer.
  deadlines.remove(request);
  vi.runAllTimers();
  expect(expired).toEqual([]);
});

test('a deadline beyond what a timer holds is no deadline of now', () => {
  const { expired, add, pass } = setUp();
  add(2 ** 40);
  pass(1_000_000);
  expect(expired).toEqual([]);
});
