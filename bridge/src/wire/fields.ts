/**
 * The one place where names change sides: snake_case on the wire, camelCase in the API.
 *
 * Only names are touched, at the depth each function states; user data never passes through here.
 */

import type { Value, WireMap } from './decoder.js';

const toCamel = new Map<string, string>();
const toSnake = new Map<string, string>();

/** Names come from a small vocabulary; a peer that invents new ones fills no memory. */
const NAMES_KEPT = 1_024;

function remember(names: Map<string, string>, name: string, made: string): string {
  if (names.size < NAMES_KEPT) names.set(name, made);
  return made;
}

export function camelCase(name: string): string {
  return (
    toCamel.get(name) ??
    remember(
      toCamel,
      name,
      name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()),
    )
  );
}

export function snakeCase(name: string): string {
  return (
    toSnake.get(name) ??
    remember(
      toSnake,
      name,
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    )
  );
}

/** Rename the keys of a map, not those inside its values. */
export function camelKeys(map: WireMap): Record<string, Value> {
  const renamed: Record<string, Value> = {};
  for (const [name, value] of Object.entries(map)) renamed[camelCase(name)] = value;
  return renamed;
}

/** Rename the keys of every map in a value that the protocol defines through and through. */
export function camelKeysDeep(value: Value): Value {
  if (Array.isArray(value)) return value.map(camelKeysDeep);
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return value;
  const renamed: WireMap = {};
  for (const [name, inner] of Object.entries(value))
    renamed[camelCase(name)] = camelKeysDeep(inner);
  return renamed;
}

/** Rename the keys of an options object for the wire, leaving out those in `skipped`. Unknown keys
 * pass: the runtime refuses them by name. */
export function snakeKeys(
  options: object,
  skipped: ReadonlySet<string> = CALL_OPTIONS,
): Record<string, unknown> {
  const renamed: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options)) {
    if (!skipped.has(name) && value !== undefined) renamed[snakeCase(name)] = value;
  }
  return renamed;
}

/** Options that concern the life of a call: they never become params. */
export const CALL_OPTIONS: ReadonlySet<string> = new Set([
  'signal',
  'deadlineMs',
  'credit',
  'onProgress',
]);
