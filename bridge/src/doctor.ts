#!/usr/bin/env node
/**
 * `isthmus-doctor`: says which Pythons were considered, why each was refused, and what the runtime
 * answers. Exits with 0 when a runtime could be started and spoken to.
 */

import { type PythonCandidate, PythonNotFoundError } from './errors.js';
import { HOST_VERSION, PROTOCOL_VERSION } from './limits.js';
import { childEnvironment } from './process/environment.js';
import { locatePython } from './process/locate-python.js';
import { createRuntime, type RuntimeHello } from './runtime.js';

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function sayCandidates(candidates: readonly PythonCandidate[]): void {
  for (const { source, path, refused, version } of candidates) {
    const verdict = refused === undefined ? `usable, Python ${version}` : `refused: ${refused}`;
    say(`  ${source}: ${path}\n    ${verdict}`);
  }
}

function sayHello(hello: RuntimeHello): void {
  const { blas } = hello;
  say(`Runtime ${hello.runtime}, protocol ${hello.protocol}, ${hello.platform}`);
  say(`  Python ${hello.python}, pid ${hello.pid}`);
  say(`  BLAS in front of mlx: ${blas ? `${blas.name} (${blas.path ?? 'no path'})` : 'none'}`);
  say(`  methods: ${hello.methods.join(', ')}`);
}

async function findPython(): Promise<string | undefined> {
  say('Python candidates:');
  try {
    const { python, candidates } = await locatePython({ env: childEnvironment(process.env) });
    sayCandidates(candidates);
    return python;
  } catch (error) {
    if (!(error instanceof PythonNotFoundError)) throw error;
    sayCandidates(error.candidates);
    say('No usable Python: install isthmus in one of them, or name one in ISTHMUS_PYTHON.');
    return undefined;
  }
}

async function main(): Promise<number> {
  say(`isthmus for Node ${HOST_VERSION}, protocol ${PROTOCOL_VERSION}`);
  say(`Node ${process.versions.node}, ${process.platform} ${process.arch}`);
  const python = await findPython();
  if (python === undefined) return 1;
  try {
    await using runtime = await createRuntime({ python });
    sayHello(runtime.hello);
    const { loopLagMs, engine } = await runtime.ping();
    say(`  answers a ping: loop lag ${loopLagMs} ms, engine ${engine.state}`);
    return 0;
  } catch (error) {
    say(`The runtime does not start: ${error instanceof Error ? error.message : String(error)}`);
    return 1;
  }
}

process.exitCode = await main();
