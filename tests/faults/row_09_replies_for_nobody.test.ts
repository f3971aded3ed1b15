/** Row 9: replies for ids that are unknown or already settled. */

import { expect, test } from 'vitest';
import { startFake } from './support.js';

test('they are counted and dropped, and every true answer arrives', async () => {
  const events: string[] = [];
  const runtime = await startFake('strangers', '', { onEvent: (name) => events.push(name) });
  const values = Array.from({ length: 20 }, (_, index) => index);
  expect(await Promise.all(values.map((value) => runtime.echo(value)))).toEqual(values);
  expect(await runtime.echo('last')).toBe('last');
  await runtime.ping();
  // Four strangers and two late ones for each of the 21 answers.
  expect(runtime.counters.droppedReplies).toBe(21 * 6);
  expect(runtime.counters.unknownEvents).toBe(21);
  expect(events).toHaveLength(21);
});

test('a second answer does not reach a later request that has the same id', async () => {
  const runtime = await startFake('strangers');
  for (let index = 0; index < 100; index++) expect(await runtime.echo(index)).toBe(index);
});
