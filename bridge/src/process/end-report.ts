/**
 * What is said when a process did not start, has ended, or is not begun again: the code or signal,
 * its last words, and the fix.
 */

import {
  type ExitReport,
  type IsthmusError,
  makeError,
  RuntimeExitedError,
  StartError,
} from '../errors.js';
import type { Command } from './spawn.js';
import type { Finding } from './watchdog.js';

/** How a process ended, and by whom. */
export interface Ending extends ExitReport {
  /** What was wrong with the protocol, when that is why it had to end. */
  readonly problem: IsthmusError | undefined;
  /** Why the host ended it by force. */
  readonly finding: Finding | undefined;
  /** Why it never said hello. */
  readonly startError: IsthmusError | undefined;
  /** The host sent SIGKILL. */
  readonly isForced: boolean;
  /** How long it lived after its hello; 0 without one. */
  readonly healthyForMs: number;
}

/** One end, as the error of a runtime that is given up tells it. */
export interface PastEnd {
  readonly atMs: number;
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly what: string;
}

export const NO_EXIT: ExitReport = { exitCode: null, signal: null, stderrTail: '' };

const DOCTOR_HINT = '`npx isthmus-doctor` shows what is missing';
const MEMORY_HINT =
  'perhaps it ran out of memory: load a smaller model or set --model-memory-bytes';
const QUOTED_LINES = 8;

/** What allocators, Python and the kernel leave behind when there is no memory. */
const OUT_OF_MEMORY = /bad_alloc|MemoryError|Cannot allocate memory|\[malloc|short of memory/;

export function startFailed(
  command: Command,
  report: ExitReport | undefined,
  cause: unknown,
): StartError {
  const tail = report?.stderrTail ?? '';
  const why =
    cause instanceof Error
      ? `could not be started (${command[0]}): ${cause.message}`
      : `${describeEnd(report)} before its hello`;
  const details = { exitCode: report?.exitCode ?? null, signal: report?.signal ?? null };
  const message = `the runtime ${why}${quoted(tail)}; ${DOCTOR_HINT}`;
  return new StartError('START_FAILED', message, tail, { details, cause });
}

export function startTimedOut(timeoutMs: number, tail: string): StartError {
  const message = `the runtime said no hello within ${timeoutMs} ms${quoted(tail)}; ${DOCTOR_HINT}`;
  return new StartError('START_TIMEOUT', message, tail);
}

/** The error of a request whose process ended. What was delivered is never asked for again. */
export function exitError(
  ending: Ending,
  isSent: boolean,
  isDelivered: boolean,
): RuntimeExitedError {
  const { problem, finding } = ending;
  const cause = finding && { cause: finding.cause };
  const details = { sent: isSent, ...problem?.details, ...cause };
  const hint = isOutOfMemory(ending) ? `; ${MEMORY_HINT}` : '';
  const message = `the runtime ${whatHappened(ending)}${quoted(ending.stderrTail)}${hint}`;
  const extras = { details, cause: problem, ...(isDelivered ? { retryable: false } : {}) };
  const code = finding === undefined ? 'RUNTIME_EXITED' : 'RUNTIME_UNRESPONSIVE';
  return new RuntimeExitedError(message, ending, extras, code);
}

/** Why a process ended, as the end of a sentence about the runtime. */
export function whatHappened(ending: Ending): string {
  const { problem, finding, startError } = ending;
  if (finding !== undefined) return `${finding.message} and was ended`;
  if (problem !== undefined) return `broke off: ${problem.message}`;
  if (startError?.code === 'START_TIMEOUT') return 'said no hello in time';
  const isUnborn = startError !== undefined && ending.exitCode === null && ending.signal === null;
  if (isUnborn) return `could not be started: ${(startError.cause as Error | undefined)?.message}`;
  return `${describeEnd(ending)}${startError === undefined ? '' : ' before its hello'}`;
}

/** The error of a runtime that is given up: a report to read. */
export function failedError(ends: readonly PastEnd[], last: Ending): IsthmusError {
  const seconds = (((ends.at(-1)?.atMs ?? 0) - (ends[0]?.atMs ?? 0)) / 1_000).toFixed(1);
  const times = ends.length === 1 ? 'once' : `${ends.length} times within ${seconds} s`;
  const words = lastLines(last.stderrTail).map((line) => `  ${line}`);
  const lines = [
    `the runtime ended ${times} and is not started again by itself:`,
    ...ends.map(({ what }, index) => `  ${index + 1}. it ${what}`),
    ...(words.length === 0 ? [] : ['its last words:', ...words]),
    ...(isOutOfMemory(last) ? [MEMORY_HINT] : []),
    `${DOCTOR_HINT}; runtime.restart() tries again`,
  ];
  const message = lines.join('\n');
  return makeError('RUNTIME_FAILED', message, { details: { ends }, cause: last.startError });
}

/** The error of a runtime whose last process stays: at most one runs at any time. */
export function leftError(pid: number | undefined): IsthmusError {
  const message =
    `the last process (${pid}) does not end, though it was killed, and none is started beside it; ` +
    'runtime.restart() tries again';
  return makeError('RUNTIME_FAILED', message, { details: { cause: 'not_ended', pid } });
}

function isOutOfMemory({ signal, stderrTail, isForced }: Ending): boolean {
  return (signal === 'SIGKILL' && !isForced) || OUT_OF_MEMORY.test(stderrTail);
}

function describeEnd(report: ExitReport | undefined): string {
  if (report?.signal) return `was ended by ${report.signal}`;
  if (typeof report?.exitCode === 'number') return `exited with code ${report.exitCode}`;
  return 'closed its pipes';
}

function quoted(tail: string): string {
  const lines = lastLines(tail);
  return lines.length === 0 ? '' : `\n  ${lines.join('\n  ')}\n`;
}

function lastLines(tail: string): string[] {
  const text = tail.trimEnd();
  return text === '' ? [] : text.split('\n').slice(-QUOTED_LINES);
}

/** The end of a process that could not even be spawned. */
export function unborn(startError: IsthmusError): Ending {
  const nothing = { problem: undefined, finding: undefined, isForced: false, healthyForMs: 0 };
  return { ...NO_EXIT, ...nothing, startError };
}
