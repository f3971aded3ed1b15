import { expect, test } from 'vitest';
import { PieceAssembler } from '../../../bridge/src/wire/pieces.js';

const MORE = 0;
const LAST = 1;
const ABANDONED = 2;
const data = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));

test('pieces of several channels are put together each in their order', () => {
  const pieces = new PieceAssembler(100, 4);
  expect(pieces.add(1, MORE, data('he'))).toBeUndefined();
  expect(pieces.add(2, MORE, data('wor'))).toBeUndefined();
  expect(pieces.add(1, LAST, data('llo'))?.toString()).toBe('hello');
  expect(pieces.add(2, LAST, data('ld'))?.toString()).toBe('world');
});

test('a channel is free again after its last piece and after it was abandoned', () => {
  const pieces = new PieceAssembler(100, 1);
  pieces.add(1, MORE, data('a'));
  pieces.add(1, ABANDONED, data(''));
  expect(pieces.add(1, LAST, data('b'))?.toString()).toBe('b');
  expect(pieces.add(1, LAST, data('c'))?.toString()).toBe('c');
});

test('a message over the limit is refused as soon as it is', () => {
  const pieces = new PieceAssembler(4, 4);
  pieces.add(1, MORE, data('abc'));
  expect(() => pieces.add(1, MORE, data('de'))).toThrow(/over the limit of 4/);
});

test('more open channels than the limit are refused', () => {
  const pieces = new PieceAssembler(100, 2);
  pieces.add(1, MORE, data('a'));
  pieces.add(2, MORE, data('a'));
  expect(() => pieces.add(3, MORE, data('a'))).toThrow(/more than 2/);
});
