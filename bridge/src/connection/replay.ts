/**
 * What becomes of a request whose process ended, and how many may be sent again.
 *
 *     not written                                         sent to the next process
 *     written, idempotent, nothing delivered of it,
 *     not cancelled, first time, the budget has room      sent to the next process once more
 *     anything else                                       fails with the end of the process
 *
 * The budget is a token bucket as in gRPC's retry throttling (proposal A6): a replay takes one
 * token, a success gives a tenth back, and at or under half of the bucket nothing is repeated, so
 * that a runtime that keeps dying is not also flooded. Knows no pipes and no clock.
 */

import { REPLAY_LIMIT, RETRY_BUDGET_REFUND, RETRY_BUDGET_TOKENS } from '../limits.js';
import type { Request } from './request.js';

const ITEM_METHODS = ['tokenize', 'detokenize', 'count_tokens', 'apply_chat_template'] as const;

/** Methods that may run twice without a difference: they read, what they make is the answer, or what
 * they do is done already the second time. */
export const IDEMPOTENT: ReadonlySet<string> = new Set([
  ...ITEM_METHODS,
  ...ITEM_METHODS.map((method) => `batch_${method}`),
  ...['check_draft', 'batch_check_draft', 'check_draft_compatibility'],
  ...['list_models', 'model_info', 'health', 'stats'],
  ...['echo', 'stream_echo', 'generate'],
  ...['open_session', 'save_session', 'evict_session', 'list_sessions', 'session_stats'],
]);

/** Methods that run the model: a process that ends while one is in flight may have ended by it. */
export const RUNS_MODEL: ReadonlySet<string> = new Set([
  'generate',
  'check_draft',
  'batch_check_draft',
]);

/** Counters of what outlives the processes. */
export interface KeptCounters {
  /** Requests that were sent again after their process had ended. */
  readonly replayed: number;
  /** Models that were loaded again for calls that named them. */
  readonly restored: number;
  /** Requests that were not sent again, for want of tokens in the retry budget. */
  readonly refusedByBudget: number;
  readonly budgetTokens: number;
}

export class RetryBudget {
  /** Requests that were sent again. */
  replayed = 0;
  /** Requests that were not, for want of tokens. */
  refused = 0;
  #tokens = RETRY_BUDGET_TOKENS;
  #successesSeen = 0;

  /** Tokens left when there have been so many successes. */
  tokens(successes: number): number {
    const refund = RETRY_BUDGET_REFUND * (successes - this.#successesSeen);
    this.#successesSeen = successes;
    this.#tokens = Math.min(this.#tokens + refund, RETRY_BUDGET_TOKENS);
    return this.#tokens;
  }

  /** Whether one more request may be sent again; takes its token. */
  take(successes: number): boolean {
    if (this.tokens(successes) <= RETRY_BUDGET_TOKENS / 2) {
      this.refused++;
      return false;
    }
    this.#tokens--;
    this.replayed++;
    return true;
  }
}

/** Whether a request that was written would do no harm in another process. */
export function isRepeatable(request: Request): boolean {
  return (
    IDEMPOTENT.has(request.method) &&
    !request.isDelivered &&
    !request.isCancelSent &&
    request.replays < REPLAY_LIMIT
  );
}
