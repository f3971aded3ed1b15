/** The public API of Isthmus for Node. */

export type { LaneStats } from './connection/lane-stats.js';
export type { CallOptions } from './connection/request.js';
export { StreamIterator } from './connection/token-stream.js';
export type {
  DraftCheck,
  DraftCompatibility,
  DraftCompatibilityOptions,
  DraftProbabilities,
  DraftVerdict,
} from './draft.js';
export {
  AbortError,
  DeadlineError,
  ERROR_CODES,
  type ErrorCode,
  type ExitReport,
  InvalidRequestError,
  IsthmusError,
  type KnownErrorCode,
  ModelLoadError,
  type PartialGeneration,
  ProtocolError,
  type PythonCandidate,
  PythonNotFoundError,
  RuntimeExitedError,
  StartError,
} from './errors.js';
export { Generation, type GenerationDelta } from './generation.js';
export type {
  BatchingReport,
  CacheReport,
  GenerationResult,
  GenerationTiming,
  GenerationUsage,
  SpeculationReport,
  TokenLogprob,
  ToolCall,
  UnreadableToolCall,
} from './generation-result.js';
export type { Health, RuntimeHealth, RuntimeStats, SupervisionStats } from './health.js';
export type { LoadModelOptions, LoadProgress } from './loading.js';
export {
  type BatchItem,
  type ChatTemplateOptions,
  type CircuitSnapshot,
  Model,
  type UnloadOptions,
  type UnloadResult,
} from './model.js';
export type { ModelInfo } from './model-info.js';
export type { LifeState } from './process/life.js';
export type { RestartOptions } from './process/restart-policy.js';
export type { StateChange } from './process/supervision.js';
export type { HeartbeatOptions } from './process/watchdog.js';
export type {
  ChatMessage,
  ChatOptions,
  EngineOptions,
  GenerateRequest,
  Prompt,
  ResponseFormat,
  SamplingOptions,
  Speculation,
} from './request-options.js';
export {
  createRuntime,
  Runtime,
  type RuntimeHello,
  type StreamOptions,
} from './runtime.js';
export { Session, type SessionOptions } from './session.js';
export type {
  EvictResult,
  KvFormat,
  SaveResult,
  SessionInfo,
  SessionStats,
} from './session-info.js';
export type { SessionStoreOptions } from './session-store-options.js';
export { type OpenSessionOptions, Sessions, type TenantOptions } from './sessions.js';
export type { RuntimeOptions } from './settings.js';
export type { DetokenizeOptions, Encoding, PiecesOptions, TokenizeOptions } from './text.js';
export type { Value, WireMap } from './wire/decoder.js';
