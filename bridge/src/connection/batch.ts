/**
 * Calls that may share one request: each keeps its own promise, signal and error.
 *
 * A member is sent alone or in a batch, and settles once. A batch whose members have all given up
 * has nobody left to answer. Knows no lanes and no clock.
 */

import { copyError, type IsthmusError } from '../errors.js';
import type { Value } from '../wire/decoder.js';
import { errorFromWire, isMap, malformed } from '../wire/messages.js';
import { Call, Phase, Request } from './request.js';

/** One operation that exists for one item and for many. */
export interface BatchOperation<Item, T> {
  /** Its method for one item; `batch_` goes before it for many. */
  readonly method: string;
  /** The parameter that holds the items of a batch. */
  readonly items: string;
  /** The parameter that one item is; undefined when the item's own fields are the parameters. */
  readonly item: string | undefined;
  /** What an item weighs on the wire. */
  readonly size: (item: Item) => number;
  /** Turn one result into the caller's value. */
  readonly convert: (value: Value) => T;
}

/** The parameters of one item that is sent by itself. */
export function singleParams(
  operation: BatchOperation<never, unknown>,
  item: unknown,
  model: string,
  options: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const own = operation.item === undefined ? (item as object) : { [operation.item]: item };
  return { ...own, model, ...options };
}

/** Told once for each request of its members: it was answered, or ended otherwise. */
export type OnSettled = (isAnswered: boolean) => void;

/** One call, while it collects, alone or in a batch. */
export class Member<T> extends Call<T> {
  readonly item: unknown;
  readonly size: number;
  /** What carries it: nothing yet, a request of its own, or one that it shares. */
  carrier: 'none' | 'itself' | Batch = 'none';
  /** When it began to collect, if it has a deadline. */
  joinedAt = 0;
  /** Where it collects. */
  lane: { leave(member: Member<unknown>): void } | undefined = undefined;
  /** For a member that is its own request. */
  onSettled: OnSettled | undefined = undefined;

  constructor(
    item: unknown,
    size: number,
    convert: (value: Value) => T,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
  ) {
    super(convert, resolve, reject);
    this.item = item;
    this.size = size;
  }

  override succeed(value: Value): void {
    this.onSettled?.(true);
    super.succeed(value);
  }

  override fail(error: IsthmusError): void {
    this.onSettled?.(false);
    super.fail(error);
  }

  /** Settle one that is not a request of its own. */
  settle(): void {
    this.phase = Phase.SETTLED;
    if (this.signal !== undefined) this.unwatch();
  }
}

/** The request of a batch. */
export class Batch extends Request {
  readonly #operation: BatchOperation<unknown, unknown>;
  readonly #members: readonly Member<unknown>[];
  readonly #onSettled: OnSettled;
  #waiting: number;

  constructor(
    operation: BatchOperation<unknown, unknown>,
    members: readonly Member<unknown>[],
    onSettled: OnSettled,
  ) {
    super();
    this.#operation = operation;
    this.#members = members;
    this.#onSettled = onSettled;
    this.#waiting = members.length;
    for (const member of members) member.carrier = this;
  }

  /** A member has given up; return whether it was the last that waited. */
  leave(): boolean {
    return --this.#waiting === 0;
  }

  override succeed(value: Value): void {
    const results = isMap(value) ? value.results : undefined;
    if (!Array.isArray(results) || results.length !== this.#members.length) {
      return this.fail(malformed('a batch has not one result for each of its calls'));
    }
    this.#onSettled(true);
    this.#each((member, index) => {
      const result = results[index] as Value;
      const error = isMap(result) ? result.error : undefined;
      if (isMap(error)) member.fail(this.#own(errorFromWire(error), index));
      else member.succeed(result);
    });
  }

  override fail(error: IsthmusError): void {
    this.#onSettled(false);
    this.#each((member) => member.fail(copyError(error)));
  }

  #each(settle: (member: Member<unknown>, index: number) => void): void {
    this.#members.forEach((member, index) => {
      if (member.phase === Phase.SETTLED) return;
      member.settle();
      settle(member, index);
    });
  }

  /** Name the parameter as the caller knows it: `text`, not `texts[17]`. */
  #own(error: IsthmusError, index: number): IsthmusError {
    const { items, item } = this.#operation;
    const place = `${items}[${index}]`;
    const { field } = error.details;
    if (typeof field !== 'string' || !field.startsWith(place)) return error;
    const shorten = (text: string): string =>
      item === undefined ? text.replace(`${place}.`, '') : text.replace(place, item);
    const details = { ...error.details, field: shorten(field) };
    return copyError(error, shorten(error.message), details);
  }
}

/** The length of whatever a caller without types may pass; the runtime says what is wrong with it. */
export function lengthOf(value: unknown): number {
  const length = (value as { length?: unknown } | null | undefined)?.length;
  return typeof length === 'number' && length >= 0 ? length : 0;
}
