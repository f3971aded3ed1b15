/** A storm of calls: every one is answered, and rightly. */

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { PYTHON, ROOT, startFaulty } from './support.js';

const LONGEST = 100_000;
const WORDS = [
  'the ',
  ' model',
  'count',
  'ing ',
  'é',
  '中 ',
  '👩‍👩‍👧',
  '42 ',
  '\n',
  'Once',
  'upon ',
  '\t',
];

/** Numbers from 0 to 1 that every run repeats. */
function* randomNumbers(seed: number): Generator<number, never> {
  let state = seed;
  for (;;) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    yield state / 2 ** 32;
  }
}

/** Texts whose lengths are log-uniform: `longCount` up to LONGEST characters, the rest up to 500. */
function makeTexts(count: number, longCount: number): string[] {
  const random = randomNumbers(count);
  const source = Array.from(
    { length: LONGEST },
    () => WORDS[Math.floor(random.next().value * WORDS.length)],
  ).join('');
  const spacing = Math.floor(count / longCount);
  return Array.from({ length: count }, (_, index) => {
    const longest = index % spacing === 0 ? LONGEST : 500;
    const length = Math.floor(Math.exp(random.next().value * Math.log(longest + 1))) - 1;
    const offset = Math.floor(random.next().value * (source.length - length));
    return source.slice(offset, offset + length).toWellFormed();
  });
}

/** Reads texts as JSON lines, prints the SHA-256 of each one's ids as little-endian words. */
const ORACLE = `
import hashlib, json, struct, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
for line in sys.stdin:
    ids = tokenizer.encode(json.loads(line)).ids
    print(hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest())
`;

function askOracle(tokenizer: string, texts: readonly string[]): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const child = spawn(PYTHON, ['-c', ORACLE, tokenizer], { cwd: ROOT });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.pipe(process.stderr);
    child.on('error', reject);
    child.on('close', () => resolve(output.trimEnd().split('\n')));
    child.stdin.end(texts.map((text) => `${JSON.stringify(text)}\n`).join(''));
  });
}

const checksum = (ids: Uint32Array): string =>
  createHash('sha256')
    .update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength))
    .digest('hex');

test.each([
  [1_000, 1_000],
  [10_000, 250],
])(
  '%i tokenize calls at once give the ids of the tokenizer itself',
  async (count, longCount) => {
    const runtime = await startFaulty();
    const model = await runtime.loadModel();
    const texts = makeTexts(count, longCount);
    const expected = askOracle(`${model.info.path}/tokenizer.json`, texts);
    const results = await Promise.all(texts.map((text) => model.tokenize(text)));
    expect(results.map(checksum)).toEqual(await expected);
    expect(runtime.counters).toEqual({ droppedReplies: 0, unknownEvents: 0, queuedBytes: 0 });
    expect((await runtime.ping()).inFlight).toBe(0);
  },
  120_000,
);
