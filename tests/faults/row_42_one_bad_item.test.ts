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

test('calls that share a frame do not share their errors', async () => {
  const runtime = await startFaulty();
  const model = await runtime.loadModel();
  const texts = Array.from({ length: COUNT }, (_, index) => `text number ${index}`);
  const good = await model.tokenizeBatch(texts);
  const bad: unknown[] = [7, null, '\ud800', {}, undefined];
  for (const one of bad) {
    const calls = texts.with(BAD, one as string).map((text) => model.tokenize(text));
    const settled = await Promise.allSettled(calls);
    const { status, reason } = settled[BAD] as PromiseRejectedResult;
    expect(status).toBe('rejected');
    expect(reason).toMatchObject({ code: 'INVALID_REQUEST', details: { field: 'text' } });
    const values = settled.map((each) => (each.status === 'fulfilled' ? each.value : null));
    expect(values).toEqual(good.map((ids, index) => (index === BAD ? null : ids)));
  }
  const drafts = texts.map((prompt) => ({ prompt, draft: [20, 21] }));
  const checks = drafts.with(BAD, { prompt: 'x', draft: [10 ** 6] });
  const verdicts = await Promise.allSettled(checks.map((check) => model.checkDraft(check)));
  expect(verdicts.filter(({ status }) => status === 'rejected')).toHaveLength(1);
  expect((verdicts[BAD] as PromiseRejectedResult).reason).toMatchObject({
    code: 'INVALID_REQUEST',
    details: { field: 'draft' },
  });
});
