/** Dependencies point one way: errors, limits ← wire ← connection ← process ← the API. */

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { expect, test } from 'vitest';
import { here } from './support.js';

const SOURCE = here('../../bridge/src');
const LAYERS = ['errors and limits', 'wire', 'connection', 'process', 'api'];

function layer(file: string): number {
  if (/^(errors|limits)\.ts$/.test(file)) return 0;
  const folder = LAYERS.indexOf(dirname(file));
  return folder === -1 ? LAYERS.length - 1 : folder;
}

const files = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
);

function importsOf(file: string): string[] {
  const text = readFileSync(join(SOURCE, file), 'utf8');
  const paths = [...text.matchAll(/from '(\.[^']+)\.js'/g)].map(([, path]) => path as string);
  return paths.map((path) => `${normalize(join(dirname(file), path))}.ts`);
}

test.each(files)('%s imports from its own layer and those below', (file) => {
  for (const imported of importsOf(file)) {
    expect(files).toContain(imported);
    expect(layer(imported), `${file} imports ${imported}`).toBeLessThanOrEqual(layer(file));
  }
});

test.each(files)('%s begins by saying what it promises', (file) => {
  expect(readFileSync(join(SOURCE, file), 'utf8')).toMatch(/^(#!.*\n)?\/\*\*/);
});

test('the package depends on nothing at run time', () => {
  const manifest = JSON.parse(readFileSync(here('../../bridge/package.json'), 'utf8')) as object;
  expect(manifest).not.toHaveProperty('dependencies');
  for (const file of files) {
    const text = readFileSync(join(SOURCE, file), 'utf8');
    for (const [, name] of text.matchAll(/from '([^.'][^']*)'/g)) expect(name).toMatch(/^node:/);
  }
});
