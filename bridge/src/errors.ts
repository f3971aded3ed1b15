/**
 * One tree of errors. Each has a stable `code`, says whether the same call may succeed later
 * (`retryable`), and where it is known in which `phase` it happened.
 *
 * The codes are those of tests/vectors/errors.json; a test holds the two equal. A code that a newer
 * runtime invents is passed on as it is. Nothing here knows how an error travels.
 */

interface CodeRow {
  readonly retryable: boolean;
  readonly origin: 'host' | 'runtime' | 'both';
}

const fatal = (origin: CodeRow['origin']): CodeRow => ({ retryable: false, origin });
const passing = (origin: CodeRow['origin']): CodeRow => ({ retryable: true, origin });

export const ERROR_CODES = {
  INVALID_REQUEST: fatal('runtime'),
  UNKNOWN_METHOD: fatal('runtime'),
  DUPLICATE_ID: fatal('runtime'),
  DECODE_ERROR: fatal('both'),
  DEPTH_EXCEEDED: fatal('both'),
  FRAME_TOO_LARGE: fatal('both'),
  REMOTE_PROTOCOL_ERROR: passing('both'),
  LOCAL_PROTOCOL_ERROR: fatal('both'),
  VERSION_MISMATCH: fatal('both'),
  MODEL_NOT_LOADED: fatal('runtime'),
  MODEL_LOAD_FAILED: fatal('runtime'),
  PATH_REFUSED: fatal('runtime'),
  CODE_REFUSED: fatal('runtime'),
  MEMORY_LIMIT: fatal('runtime'),
  CANCELLED: fatal('both'),
  DEADLINE_EXCEEDED: fatal('both'),
  QUEUE_FULL: passing('both'),
  SESSION_BUSY: passing('runtime'),
  CIRCUIT_OPEN: passing('runtime'),
  UNAVAILABLE: passing('runtime'),
  NUMERIC_ERROR: fatal('runtime'),
  CONSTRAINT_FAILED: fatal('runtime'),
  ENGINE_DEAD: passing('runtime'),
  CLOSING: passing('both'),
  INTERNAL: fatal('both'),
  RUNTIME_EXITED: passing('host'),
  RUNTIME_UNRESPONSIVE: passing('host'),
  RUNTIME_FAILED: fatal('host'),
  START_FAILED: fatal('host'),
  START_TIMEOUT: fatal('host'),
  PYTHON_NOT_FOUND: fatal('host'),
} as const satisfies Record<string, CodeRow>;

/** A code of the table, or one that a newer runtime sent. */
export type KnownErrorCode = keyof typeof ERROR_CODES;
export type ErrorCode = KnownErrorCode | (string & {});

export interface ErrorExtras {
  readonly retryable?: boolean | undefined;
  readonly phase?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly details?: Readonly<Record<string, unknown>> | undefined;
  readonly cause?: unknown;
}

/** What a generation had produced before it failed. */
export interface PartialGeneration {
  readonly text: string;
  readonly ids: Uint32Array;
  readonly completionTokens: number;
}

export class IsthmusError extends Error {
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly phase: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly details: Readonly<Record<string, unknown>>;
  /** Set on the error of a generation: the tokens that were delivered are not lost. */
  partial?: PartialGeneration;

  constructor(code: ErrorCode, message: string, extras: ErrorExtras = {}) {
    super(message, extras.cause === undefined ? undefined : { cause: extras.cause });
    this.code = code;
    this.retryable = extras.retryable ?? isRetryable(code);
    this.phase = extras.phase;
    this.retryAfterMs = extras.retryAfterMs;
    this.details = extras.details ?? {};
  }

  static {
    IsthmusError.prototype.name = 'IsthmusError';
  }
}

function isRetryable(code: ErrorCode): boolean {
  return Object.hasOwn(ERROR_CODES, code) && ERROR_CODES[code as KnownErrorCode].retryable;
}

/** The request itself is wrong; `details.field` names the part. */
export class InvalidRequestError extends IsthmusError {
  static {
    InvalidRequestError.prototype.name = 'InvalidRequestError';
  }
}

/** A deadline passed; `phase` says where. */
export class DeadlineError extends IsthmusError {
  static {
    DeadlineError.prototype.name = 'DeadlineError';
  }
}

/** The caller's AbortSignal fired; `cause` is its reason. */
export class AbortError extends IsthmusError {
  static {
    AbortError.prototype.name = 'AbortError';
  }
}

/** One side broke the protocol; `code` says which rule and whose fault it is. */
export class ProtocolError extends IsthmusError {
  static {
    ProtocolError.prototype.name = 'ProtocolError';
  }
}

/** A model was not loaded; `details.cause` says why. */
export class ModelLoadError extends IsthmusError {
  static {
    ModelLoadError.prototype.name = 'ModelLoadError';
  }
}

/** How a runtime process ended. */
export interface ExitReport {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last lines of its standard error. */
  readonly stderrTail: string;
}

/** The runtime process ended, or its pipes did, before the request was settled; with the code
 * RUNTIME_UNRESPONSIVE because the host ended it, which had waited for a sign of life in vain. */
export class RuntimeExitedError extends IsthmusError {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderrTail: string;

  constructor(
    message: string,
    report: ExitReport,
    extras: ErrorExtras = {},
    code: ErrorCode = 'RUNTIME_EXITED',
  ) {
    super(code, message, extras);
    this.exitCode = report.exitCode;
    this.signal = report.signal;
    this.stderrTail = report.stderrTail;
  }

  static {
    RuntimeExitedError.prototype.name = 'RuntimeExitedError';
  }
}

/** The runtime did not get as far as its hello. */
export class StartError extends IsthmusError {
  readonly stderrTail: string;

  constructor(
    code: 'START_FAILED' | 'START_TIMEOUT',
    message: string,
    stderrTail: string,
    extras: ErrorExtras = {},
  ) {
    super(code, message, extras);
    this.stderrTail = stderrTail;
  }

  static {
    StartError.prototype.name = 'StartError';
  }
}

/** One Python that was considered, and what was found. */
export interface PythonCandidate {
  /** Where the path came from, such as `VIRTUAL_ENV` or `python3 on PATH`. */
  readonly source: string;
  readonly path: string;
  /** Undefined when it is usable. */
  readonly refused: string | undefined;
  readonly version: string | undefined;
}

export class PythonNotFoundError extends IsthmusError {
  readonly candidates: readonly PythonCandidate[];

  constructor(message: string, candidates: readonly PythonCandidate[]) {
    super('PYTHON_NOT_FOUND', message);
    this.candidates = candidates;
  }

  static {
    PythonNotFoundError.prototype.name = 'PythonNotFoundError';
  }
}

const CLASSES: Readonly<Record<string, typeof IsthmusError>> = {
  INVALID_REQUEST: InvalidRequestError,
  DEADLINE_EXCEEDED: DeadlineError,
  CANCELLED: AbortError,
  DECODE_ERROR: ProtocolError,
  DEPTH_EXCEEDED: ProtocolError,
  FRAME_TOO_LARGE: ProtocolError,
  REMOTE_PROTOCOL_ERROR: ProtocolError,
  LOCAL_PROTOCOL_ERROR: ProtocolError,
  VERSION_MISMATCH: ProtocolError,
  MODEL_LOAD_FAILED: ModelLoadError,
  PATH_REFUSED: ModelLoadError,
  CODE_REFUSED: ModelLoadError,
  MEMORY_LIMIT: ModelLoadError,
};

/** Make the error of the class that belongs to `code`. */
export function makeError(code: ErrorCode, message: string, extras?: ErrorExtras): IsthmusError {
  return new (classOf(code, extras?.phase))(code, message, extras);
}

function classOf(code: ErrorCode, phase: string | undefined): typeof IsthmusError {
  // The id of a session is refused with this code too, where nothing is loaded.
  if (code === 'PATH_REFUSED' && phase !== 'load') return IsthmusError;
  return (Object.hasOwn(CLASSES, code) ? CLASSES[code] : undefined) ?? IsthmusError;
}

/** The error for a part of a request, or an option, that is wrong. */
export function invalidField(field: string, problem: string): InvalidRequestError {
  const message = `\`${field}\` ${problem}`;
  return new InvalidRequestError('INVALID_REQUEST', message, { details: { field } });
}

/** Add what a generation had produced to its error. With any of it the request is never repeated. */
export function attachPartial(error: IsthmusError, partial: PartialGeneration): void {
  error.partial = partial;
  if (partial.completionTokens > 0) (error as { retryable: boolean }).retryable = false;
}

/** Make another error that says the same, or the same of something else: callers that fail together
 * each get their own. */
export function copyError(
  error: IsthmusError,
  message: string = error.message,
  details: Readonly<Record<string, unknown>> = error.details,
): IsthmusError {
  const { code, retryable, phase, retryAfterMs, cause } = error;
  const extras = { retryable, phase, retryAfterMs, details: { ...details }, cause };
  if (error instanceof RuntimeExitedError) {
    return new RuntimeExitedError(message, error, extras, code);
  }
  return makeError(code, message, extras);
}
