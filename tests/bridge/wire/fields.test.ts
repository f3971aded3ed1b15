import { describe, expect, test } from 'vitest';
import { camelKeys, camelKeysDeep, snakeKeys } from '../../../bridge/src/wire/fields.js';
import { tokenIds } from '../../../bridge/src/wire/token-ids.js';

describe('names', () => {
  test('of options become snake_case, and those of a call stay here', () => {
    const tools = [{ innerName: 1 }];
    const options = { maxTokens: 5, topP: 0.5, tools, signal: {}, deadlineMs: 1, credit: 2 };
    expect(snakeKeys(options)).toEqual({ max_tokens: 5, top_p: 0.5, tools });
  });

  test('that nobody knows pass, so that the runtime can refuse them by name', () => {
    expect(snakeKeys({ maxTokns: 5 })).toEqual({ max_tokns: 5 });
  });

  test('of undefined options are left out', () => {
    expect(snakeKeys({ maxTokens: undefined })).toEqual({});
  });

  test('become camelCase at the first level, or at every one', () => {
    const map = { load_ms: 1, inner: { group_size: [{ a_b: 2 }] } };
    expect(camelKeys(map)).toEqual({ loadMs: 1, inner: { group_size: [{ a_b: 2 }] } });
    expect(camelKeysDeep(map)).toEqual({ loadMs: 1, inner: { groupSize: [{ aB: 2 }] } });
  });
});

describe('token ids', () => {
  const wire = (ids: number[]): Uint8Array => {
    const bytes = new Uint8Array(4 * ids.length);
    const view = new DataView(bytes.buffer);
    for (const [index, id] of ids.entries()) view.setUint32(4 * index, id, true);
    return bytes;
  };

  test.each([0, 1, 15, 16, 17, 1_000])('are read from binary, %i of them', (count) => {
    const ids = Array.from({ length: count }, (_, index) => 4_294_967_295 - 7 * index);
    expect(tokenIds(wire(ids))).toEqual(Uint32Array.from(ids));
  });

  test('are read from an array of integers', () => {
    expect(tokenIds([1, 2])).toEqual(Uint32Array.of(1, 2));
  });

  test.each([[new Uint8Array(5)], ['text'], [null], [undefined], [['a']]])(
    'are refused when they are none: %s',
    (value) => expect(() => tokenIds(value)).toThrow(/token id/),
  );
});
