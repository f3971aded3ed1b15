/** Row 42: one item of a batch is bad. */

import { expect, test } from 'vitest';
import { InvalidRequestError } from '../../bridge/dist/index.js';
import { startFaulty } from './support.js';

const COUNT = 64;
const BAD = 17;

test('the other 63 have their results, in order', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const texts = Array.from({ length: COUNT }, (_, index) => `text number ${index}`);
  const alone = await Promise.all(texts.map((text) => model.tokenize(text)));
  const withBad = <T>(items: readonly T[], bad: unknown): T[] => items.with(BAD, bad as T) as T[];

  const tokenized = await model.tokenizeBatch(withBad(texts, 7));
  expect(tokenized[BAD]).toBeInstanceOf(InvalidRequestError);
  expect(withBad(tokenized, null)).toEqual(withBad(alone, null));

  const counted = await model.countTokensBatch(withBad(texts, ['no text']));
  expect(counted[BAD]).toMatchObject({ details: { field: `texts[${BAD}]` } });
  expect(withBad(counted, null)).toEqual(
    withBad(
      alone.map((ids) => ids.length),
      null,
    ),
  );

  const detokenized = await model.detokenizeBatch(withBad(alone, [10 ** 6]));
  expect(detokenized[BAD]).toBeInstanceOf(InvalidRequestError);
  expect(withBad(detokenized, null)).toEqual(withBad(texts, null));
});
