import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Call, Phase } from '../../../bridge/src/connection/request.js';
import { RequestTable } from '../../../bridge/src/connection/request-table.js';

const nothing = (): void => undefined;
const LAST_ID = 2 ** 32 - 1;

function add(table: RequestTable): Call<void> {
  const request = new Call<void>(nothing, nothing, nothing);
  request.id = table.takeId();
  request.phase = table.hasRoom ? Phase.SENT : Phase.WAITING;
  table.add(request);
  return request;
}

describe('ids', () => {
  test('wrap after 2^32 - 1 and skip those in use', () => {
    const table = new RequestTable(100, LAST_ID);
    expect([add(table).id, add(table).id, add(table).id]).toEqual([LAST_ID, 0, 1]);
    const other = new RequestTable(100, 0);
    expect(add(other).id).toBe(0);
  });

  test('are never given to two requests at once, whatever is answered when', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(9), { maxLength: 3_000 }), (steps) => {
        const table = new RequestTable(10_000, LAST_ID - 500);
        const open: number[] = [];
        for (const step of steps) {
          if (step < 6) {
            const { id } = add(table);
            expect(open).not.toContain(id);
            open.push(id);
          } else {
            const [id] = open.splice(step % (open.length || 1), 1);
            if (id !== undefined) expect(table.take(id)?.id).toBe(id);
          }
        }
        expect(table.droppedReplies).toBe(0);
        expect(table.clear().map(({ id }) => id)).toEqual(open);
      }),
    );
  });

  test('of a request that was settled here stay in use until the runtime answers', () => {
    const table = new RequestTable(100);
    const request = add(table);
    request.phase = Phase.SETTLED;
    expect(table.find(request.id)).toBeUndefined();
    expect(table.take(request.id)).toBe(request);
    expect(table.droppedReplies).toBe(0);
    expect(table.take(request.id)).toBeUndefined();
    expect(table.droppedReplies).toBe(1);
  });

  test('that nobody uses are counted', () => {
    const table = new RequestTable(100);
    table.take(5);
    table.find(2 ** 32 - 1);
    expect(table.droppedReplies).toBe(2);
  });

  test('that only look alike modulo the size are not confused', () => {
    const table = new RequestTable(100);
    const { id } = add(table);
    expect(table.take(id + 1_024)).toBeUndefined();
    expect(table.peek(id + 1_024)).toBeUndefined();
    expect(table.peek(id)?.id).toBe(id);
  });
});

describe('requests beyond the limit', () => {
  test('wait in their order until there is room', () => {
    const table = new RequestTable(2);
    const [first, second, third, fourth] = [add(table), add(table), add(table), add(table)];
    expect(table.hasRoom).toBe(false);
    expect(table.admit()).toBeUndefined();
    table.take(second.id);
    expect(table.admit()).toBe(third);
    expect(table.admit()).toBeUndefined();
    table.withdraw(fourth);
    table.take(first.id);
    expect(table.admit()).toBeUndefined();
    expect(table.hasRoom).toBe(true);
  });

  test('are not found by replies', () => {
    const table = new RequestTable(0);
    const { id } = add(table);
    expect(table.take(id)).toBeUndefined();
    expect(table.droppedReplies).toBe(1);
  });
});
