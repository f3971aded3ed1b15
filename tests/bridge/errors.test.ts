import { describe, expect, test } from 'vitest';
import {
  AbortError,
  DeadlineError,
  ERROR_CODES,
  InvalidRequestError,
  IsthmusError,
  ModelLoadError,
  makeError,
  ProtocolError,
  RuntimeExitedError,
} from '../../bridge/src/errors.js';
import { vectors } from './support.js';

interface Row {
  readonly code: string;
  readonly retryable: boolean;
  readonly origin: string;
}

test('the table of codes is that of the vectors', () => {
  const rows = vectors<Row>('errors').map(({ code, retryable, origin }) => [
    code,
    { retryable, origin },
  ]);
  expect(ERROR_CODES).toEqual(Object.fromEntries(rows));
});

describe('an error', () => {
  test.each([
    ['INVALID_REQUEST', InvalidRequestError],
    ['DEADLINE_EXCEEDED', DeadlineError],
    ['CANCELLED', AbortError],
    ['DECODE_ERROR', ProtocolError],
    ['VERSION_MISMATCH', ProtocolError],
    ['MODEL_LOAD_FAILED', ModelLoadError],
    ['CODE_REFUSED', ModelLoadError],
    ['QUEUE_FULL', IsthmusError],
  ])('with code %s has its class and its name', (code, ErrorClass) => {
    const error = makeError(code, 'text');
    expect(error).toBeInstanceOf(ErrorClass);
    expect(error).toBeInstanceOf(IsthmusError);
    expect(error).toBeInstanceOf(Error);
    expect(error.name).toBe(ErrorClass.name);
    expect(error.code).toBe(code);
  });

  test('of a refused path is one of a load only where a model is loaded', () => {
    const phase = { phase: 'load' };
    expect(makeError('PATH_REFUSED', '', phase)).toBeInstanceOf(ModelLoadError);
    const details = { field: 'session.id' };
    expect(makeError('PATH_REFUSED', '', { details }).name).toBe('IsthmusError');
  });

  test('takes `retryable` from the table unless the runtime says otherwise', () => {
    expect(makeError('QUEUE_FULL', '').retryable).toBe(true);
    expect(makeError('SESSION_BUSY', '').retryable).toBe(true);
    expect(makeError('INVALID_REQUEST', '').retryable).toBe(false);
    expect(makeError('INTERNAL', '', { retryable: true }).retryable).toBe(true);
  });

  test('with a code from a newer runtime is passed on', () => {
    expect(makeError('FROM_LATER', 'text')).toMatchObject({ code: 'FROM_LATER', retryable: false });
    expect(makeError('constructor', 'text')).toMatchObject({ retryable: false });
  });

  test('of an abort is called AbortError, as callers of fetch expect', () => {
    expect(makeError('CANCELLED', '').name).toBe('AbortError');
  });

  test('of an exit carries how the process ended', () => {
    const report = { exitCode: null, signal: 'SIGKILL' as const, stderrTail: 'last words' };
    expect(new RuntimeExitedError('text', report)).toMatchObject({
      ...report,
      code: 'RUNTIME_EXITED',
      retryable: true,
    });
  });
});
