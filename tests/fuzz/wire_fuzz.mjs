/**
 * The TypeScript side's half of `make fuzz`: `node wire_fuzz.mjs SECONDS [VERDICTS]`.
 *
 * First every payload that the Python side's fuzzer has found is read: both languages must come to
 * the same value, or to the same refusal. Then fast-check makes values, damaged payloads and cuts
 * of its own until the time is over. Prints counts; exit code 1 when something was found.
 */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isDeepStrictEqual } from 'node:util';
import { decode, encode } from '../../bridge/dist/wire/codec.js';
import { FrameDecoder } from '../../bridge/dist/wire/frames.js';

const fc = createRequire(new URL('../../bridge/package.json', import.meta.url))('fast-check');

const [seconds = '15', file] = process.argv.slice(2);
const REFUSALS = ['DECODE_ERROR', 'DEPTH_EXCEEDED'];
const FINAL = ['FRAME_TOO_LARGE', 'REMOTE_PROTOCOL_ERROR'];
const FRAME_LIMIT_BYTES = 600;
const FORBIDDEN_KEYS = ['__proto__', 'constructor', 'prototype'];
const SHOWN = 10;

const say = (line) => process.stdout.write(`${line}\n`);

/** The text that `invariants.verdict` makes of a payload. */
function verdict(payload) {
  try {
    return canonical(decode(payload));
  } catch (error) {
    if (REFUSALS.includes(error.code)) return error.code;
    throw error;
  }
}

function canonical(value) {
  if (value === null || typeof value === 'boolean') return value === null ? 'nil' : `${value}`;
  if (typeof value === 'string') return `s${Buffer.from(value).toString('hex')}`;
  if (value instanceof Uint8Array) return `b${Buffer.from(value).toString('hex')}`;
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value === 'number') {
    const bits = Buffer.alloc(8);
    bits.writeDoubleBE(value);
    return Number.isNaN(value) ? 'nan' : bits.toString('hex');
  }
  const pairs = Object.entries(value).map(
    ([key, item]) => `${Buffer.from(key).toString('hex')}:${canonical(item)}`,
  );
  return `{${pairs.sort().join(',')}}`;
}

/** What a payload that breaks two rules may be refused by: which one is found first is left open. */
const EITHER = ['DECODE_ERROR', 'DEPTH_EXCEEDED'];

function compare(rows) {
  const wrong = rows.filter(({ hex, verdict: expected }) => {
    const found = verdict(Buffer.from(hex, 'hex'));
    return found !== expected && !(EITHER.includes(found) && EITHER.includes(expected));
  });
  for (const { hex, verdict: expected } of wrong.slice(0, SHOWN)) {
    say(`  ${hex.slice(0, 400)}`);
    say(`    python: ${expected.slice(0, 400)}`);
    say(`    node:   ${verdict(Buffer.from(hex, 'hex')).slice(0, 400)}`);
  }
  return wrong.length;
}

/** Payloads and the code that ended it, when `chunks` arrive one after another. */
function frames(chunks) {
  const found = [];
  const decoder = new FrameDecoder(FRAME_LIMIT_BYTES, (buffer, start, end) => {
    found.push(buffer.toString('hex', start, end));
  });
  try {
    for (const chunk of chunks) decoder.push(chunk);
    decoder.end();
  } catch (error) {
    if (!FINAL.includes(error.code)) throw error;
    return [found, error.code];
  }
  return [found, null];
}

const keys = fc.string().filter((key) => !FORBIDDEN_KEYS.includes(key));
const numbers = fc.double().filter((n) => !Number.isInteger(n) || Number.isSafeInteger(n));
const values = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'medium' },
    fc.constantFrom(null, true, false),
    fc.maxSafeInteger(),
    numbers,
    fc.string({ unit: 'binary' }),
    fc.uint8Array({ maxLength: 300 }),
    fc.array(tie('value'), { maxLength: 20 }),
    fc.dictionary(keys, tie('value'), { maxKeys: 20, noNullPrototype: true }),
  ),
})).value;

/** A payload of which some bytes were changed. */
function damaged(payload, changes) {
  const bytes = Buffer.from(payload);
  for (const [place, byte] of changes) bytes[place % bytes.length] = byte;
  return bytes;
}

/** A float of 2^53 or more is read, but not sent: here it cannot be told from an integer. */
function survives(value, found) {
  try {
    return verdict(encode(value)) === found;
  } catch (error) {
    return error.code === 'INVALID_REQUEST' && /beyond/.test(error.message);
  }
}

const changes = fc.array(fc.tuple(fc.nat(4_000), fc.nat(255)), { minLength: 1, maxLength: 4 });

function properties(payloads) {
  const payload = payloads.length === 0 ? fc.uint8Array() : fc.constantFrom(...payloads);
  return {
    'a value comes back as it was': fc.property(values, (value) =>
      isDeepStrictEqual(canonical(decode(encode(value))), canonical(value)),
    ),
    'bytes are a value or a refusal': fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      verdict(Buffer.from(bytes));
    }),
    'a damaged payload is a value or a refusal, and a value survives': fc.property(
      payload.filter(({ length }) => length > 0),
      changes,
      (bytes, at) => {
        const found = verdict(damaged(bytes, at));
        return REFUSALS.includes(found) || survives(decode(damaged(bytes, at)), found);
      },
    ),
    'a cut changes no frame': fc.property(
      fc.array(fc.oneof(payload, fc.uint8Array({ maxLength: 40 })), { maxLength: 6 }),
      fc.array(fc.nat(800), { maxLength: 12 }),
      fc.array(fc.tuple(fc.nat(800), fc.nat(255)), { maxLength: 1 }),
      (parts, cuts, at) => {
        const whole = damaged(Buffer.concat(parts.map(framed)), at);
        const places = [0, ...cuts.filter((cut) => cut < whole.length).sort((a, b) => a - b)];
        const chunks = places.map((start, index) => whole.subarray(start, places[index + 1]));
        return isDeepStrictEqual(frames(chunks), frames([whole]));
      },
    ),
  };
}

function framed(payload) {
  const whole = Buffer.alloc(4 + payload.length);
  whole.writeUInt32BE(payload.length);
  whole.set(payload, 4);
  return whole;
}

/** Check a property for a time; return how many examples there were, and how many failed. */
function runFor(property, milliseconds) {
  const result = fc.check(property, {
    numRuns: Number.MAX_SAFE_INTEGER,
    interruptAfterTimeLimit: milliseconds,
    markInterruptAsFailure: false,
  });
  if (result.failed) say(fc.defaultReportMessage(result));
  return [result.numRuns, result.failed ? 1 : 0];
}

const rows = file === undefined ? [] : JSON.parse(readFileSync(file, 'utf8'));
const different = compare(rows);
const all = properties(rows.map(({ hex }) => Buffer.from(hex, 'hex')));
const share = (1_000 * Number(seconds)) / Object.keys(all).length;
let executions = rows.length;
let failures = 0;
for (const [name, property] of Object.entries(all)) {
  const [runs, failed] = runFor(property, share);
  executions += runs;
  failures += failed;
  if (failed > 0) say(`node: ${name}: not so`);
}
say(`node executions: ${executions}`);
say(`node and python differ: ${different} of ${rows.length} payloads`);
say(`node failures: ${failures}`);
process.exitCode = different + failures > 0 ? 1 : 0;
