import { describe, expect, test } from 'vitest';
import { DEFAULT_HEARTBEAT, engineDead, Watchdog } from '../../../bridge/src/process/watchdog.js';

const IDLE = { engine: { state: 'idle', progress_age_ms: null } };
const busy = (age: number) => ({ engine: { state: 'busy', progress_age_ms: age } });

function begun(): Watchdog {
  const watchdog = new Watchdog(DEFAULT_HEARTBEAT);
  watchdog.begin(0, 0);
  return watchdog;
}

describe('a runtime that is asked something', () => {
  test('is pinged each interval, once at a time', () => {
    const watchdog = begun();
    expect(watchdog.tick(1_000, 0)).toBe('ping');
    expect(watchdog.tick(2_000, 0)).toBe('wait');
    expect(watchdog.pong(IDLE)).toBeUndefined();
    expect(watchdog.tick(3_000, 1)).toBe('ping');
  });

  test('is unresponsive when nothing has come for the time of silence', () => {
    const watchdog = begun();
    for (let now = 1_000; now < 10_000; now += 1_000) watchdog.tick(now, 0);
    expect(watchdog.tick(10_000, 0)).toMatchObject({ cause: 'silent', message: /10000 ms/ });
    expect(watchdog.silentMs(10_000, 0)).toBe(10_000);
  });

  test('is alive while it sends anything, if it never answers a ping', () => {
    const watchdog = begun();
    for (let second = 1; second < 1_000; second++) {
      const action = watchdog.tick(second * 1_000, Math.floor(second / 9));
      expect(['ping', 'wait']).toContain(action);
    }
  });

  test('is not taken for silent because it had nothing to do before', () => {
    const watchdog = begun();
    expect(watchdog.tick(1_000, 0)).toBe('ping');
    watchdog.begin(3_600_000, 0);
    expect(watchdog.tick(3_601_000, 0)).toBe('wait');
  });
});

describe('a host that was blocked', () => {
  test('does not count the silence of that time', () => {
    const watchdog = begun();
    watchdog.tick(1_000, 0);
    expect(watchdog.tick(3_600_000, 0)).toBe('wait');
    expect(watchdog.silentMs(3_600_500, 0)).toBe(500);
    for (let now = 3_601_000; now < 3_610_000; now += 1_000) {
      expect(watchdog.tick(now, 0)).toBe('wait');
    }
    expect(watchdog.tick(3_610_000, 0)).toMatchObject({ cause: 'silent' });
  });

  test('again and again never ends a runtime', () => {
    const watchdog = begun();
    for (let now = 1_600; now < 1_000_000; now += 1_600) {
      expect(['ping', 'wait']).toContain(watchdog.tick(now, 0));
    }
  });
});

describe('an engine', () => {
  test('that finished nothing for the stuck time is stuck', () => {
    expect(begun().pong(busy(120_000))).toMatchObject({ cause: 'engine_stuck' });
  });

  test('whose long prompt goes on chunk by chunk is not, however long that takes', () => {
    const watchdog = begun();
    for (let second = 1; second < 3_600; second++) {
      expect(watchdog.tick(second * 1_000, second)).toBe('ping');
      expect(watchdog.pong(busy((second % 119) * 1_000))).toBeUndefined();
    }
  });

  test('that is dead is told by the pong and by the event', () => {
    expect(begun().pong({ engine: { state: 'dead' } })).toMatchObject({ cause: 'engine_dead' });
    expect(engineDead('no memory')).toMatchObject({ message: /died: no memory/ });
  });

  test('of which the pong says nothing is let be', () => {
    for (const health of [{}, { engine: null }, { engine: { state: 'busy' } }]) {
      expect(begun().pong(health)).toBeUndefined();
    }
  });
});

test('another process begins without an unanswered ping', () => {
  const watchdog = begun();
  watchdog.tick(1_000, 0);
  watchdog.reset();
  watchdog.begin(2_000, 0);
  expect(watchdog.tick(3_000, 0)).toBe('ping');
});
