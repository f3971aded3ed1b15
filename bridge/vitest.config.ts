import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

// The tests live beside the other half's, outside this package: what they import by name is
// found in this package's node_modules.
export default defineConfig({
  resolve: {
    alias: {
      vitest: here('./node_modules/vitest'),
      'fast-check': here('./node_modules/fast-check'),
      '@msgpack/msgpack': here('./node_modules/@msgpack/msgpack'),
    },
  },
  server: { fs: { allow: [here('..')] } },
  test: {
    dir: here('../tests/bridge'),
    include: ['**/*.test.ts'],
    testTimeout: 15_000,
    pool: 'forks',
    poolOptions: undefined,
    execArgv: ['--expose-gc'],
  },
});
