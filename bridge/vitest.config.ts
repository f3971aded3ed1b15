import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

// The tests live beside the other half's, outside this package: what they import by name is
// found in this package's node_modules.
export default defineConfig({
  root: here('..'),
  cacheDir: here('./node_modules/.vite'),
  resolve: {
    alias: {
      vitest: here('./node_modules/vitest'),
      'fast-check': here('./node_modules/fast-check'),
      '@msgpack/msgpack': here('./node_modules/@msgpack/msgpack'),
    },
  },
  test: {
    include: ['tests/{bridge,contract,faults}/**/*.test.ts'],
    testTimeout: 30_000,
    pool: 'forks',
    execArgv: ['--expose-gc'],
  },
});
