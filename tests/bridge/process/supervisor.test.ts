import { ChildProcess, execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { createRuntime, type Runtime, type RuntimeOptions } from '../../../bridge/src/index.js';
import { failure, here, turn } from '../support.js';

const PEER = here('./fixtures/peer.mjs');
const SHUTDOWN = { graceMs: 2_000, termMs: 2_000, killMs: 2_000 };

const peer = (scenario: string): [string, ...string[]] => [process.execPath, PEER, scenario];

/** Start a runtime that is not started again when it ends. */
async function start(scenario: string, options: RuntimeOptions = {}): Promise<Runtime> {
  const fixed = { command: peer(scenario), shutdown: SHUTDOWN, restart: false } as const;
  const runtime = await createRuntime({ ...fixed, ...options });
  onTestFinished(async () => void (await runtime.close()));
  return runtime;
}

const startFailure = (options: RuntimeOptions) => failure(createRuntime(options));

/** Whether a process runs; one that waits to be reaped does not. */
function isAlive(pid: number | undefined): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.charAt(stat.lastIndexOf(')') + 2) !== 'Z';
  } catch {
    return false;
  }
}

describe('a start', () => {
  test('gives the hello, in the names of the API', async () => {
    const runtime = await start('good');
    expect(runtime.hello).toMatchObject({ protocol: 1, runtime: '0.0.1' });
    expect(await runtime.echo(1)).toBe('ok');
  });

  test('whose process exits says why, with its last lines and where to look', async () => {
    const error = await startFailure({ command: peer('exits-before-hello') });
    expect(error).toMatchObject({ code: 'START_FAILED', retryable: false, name: 'StartError' });
    expect(error.message).toMatch(/exited with code 1.*No module named 'mlx'.*isthmus-doctor/s);
    expect(error).toMatchObject({ details: { exitCode: 1, signal: null } });
  });

  test('whose program is missing says so', async () => {
    const error = await startFailure({ command: ['/nowhere/isthmus', 'runtime'] });
    expect(error.code).toBe('START_FAILED');
    expect(error.message).toMatch(/\/nowhere\/isthmus.*ENOENT/);
  });

  test('with an impossible argument fails like any other', async () => {
    const error = await startFailure({ command: [process.execPath, 'a\0b'] });
    expect(error.code).toBe('START_FAILED');
  });

  test.each(['never-says-hello', 'never-says-hello-and-stays'])(
    'that %s times out and leaves no process',
    async (scenario) => {
      const shutdown = { graceMs: 0, termMs: 50, killMs: 5_000 };
      let pid: number | undefined;
      const command = ['/bin/sh', '-c', `echo $$ >&2; exec "$0" "$@"`, ...peer(scenario)] as const;
      const error = await startFailure({
        command,
        startTimeoutMs: 300,
        shutdown,
        onStderr: (text) => {
          pid = Number.parseInt(text, 10);
        },
      });
      expect(error.code).toBe('START_TIMEOUT');
      expect(pid).toBeGreaterThan(0);
      expect(isAlive(pid)).toBe(false);
    },
  );

  test('of another protocol version is refused and ended', async () => {
    const error = await startFailure({ command: peer('wrong-version'), shutdown: SHUTDOWN });
    expect(error.code).toBe('VERSION_MISMATCH');
    expect(error.message).toMatch(/protocol 99.*protocol 1/s);
  });

  test('with text in front of the hello shows the text', async () => {
    const error = await startFailure({ command: peer('prints-before-hello'), shutdown: SHUTDOWN });
    expect(error.code).toBe('FRAME_TOO_LARGE');
    expect(error.message).toMatch(/4c6f6164696e67/);
  });
});

describe('pending calls settle when the runtime', () => {
  test('is killed', async () => {
    const runtime = await start('dies-at-request');
    const errors = await Promise.all([failure(runtime.echo(1)), failure(runtime.echo(2))]);
    for (const error of errors) {
      expect(error).toMatchObject({
        code: 'RUNTIME_EXITED',
        signal: 'SIGKILL',
        exitCode: null,
        details: { sent: true },
      });
    }
    expect(await runtime.closed).toMatchObject({ signal: 'SIGKILL' });
    expect(await failure(runtime.echo(3))).toMatchObject({ code: 'RUNTIME_EXITED' });
  });

  test('exits, with its last words', async () => {
    const runtime = await start('exits-at-request');
    const error = await failure(runtime.echo(1));
    expect(error).toMatchObject({ exitCode: 7, signal: null, stderrTail: 'the last words\n' });
    expect(error.message).toMatch(/exited with code 7.*the last words/s);
  });

  test('ends within a frame', async () => {
    const runtime = await start('truncated-frame');
    const error = await failure(runtime.echo(1));
    expect(error).toMatchObject({ code: 'RUNTIME_EXITED', details: { kind: 'truncated' } });
    expect(error.cause).toMatchObject({ code: 'REMOTE_PROTOCOL_ERROR' });
  });

  test('closes its output and goes on', async () => {
    const runtime = await start('closes-output');
    expect(await failure(runtime.echo(1))).toMatchObject({ code: 'RUNTIME_EXITED' });
    expect(await runtime.closed).toMatchObject({ signal: 'SIGTERM' });
  });

  test('closes its input and goes on, and the host lives', async () => {
    let isClosed: () => void = () => undefined;
    const closed = new Promise<void>((resolve) => {
      isClosed = resolve;
    });
    const runtime = await start('closes-input', { onStderr: () => isClosed() });
    await closed;
    const errors = await Promise.all([failure(runtime.echo(1)), failure(runtime.echo(2))]);
    for (const error of errors) expect(error.code).toBe('RUNTIME_EXITED');
    expect(await runtime.closed).toMatchObject({ signal: 'SIGTERM' });
  });

  test('writes text between frames', async () => {
    const runtime = await start('garbage');
    const error = await failure(runtime.echo(1));
    expect(error).toMatchObject({ code: 'RUNTIME_EXITED', cause: { code: 'FRAME_TOO_LARGE' } });
    expect(error.message).toMatch(/54726163656261636b/);
    expect(await runtime.closed).toMatchObject({ exitCode: 3 });
  });

  test('leaves a grandchild that holds the pipes', async () => {
    const runtime = await start('grandchild-holds-output');
    const grandchild = Number(await runtime.echo(1));
    onTestFinished(() => void process.kill(grandchild, 'SIGKILL'));
    const pending = failure(runtime.echo(2));
    expect(await runtime.closed).toMatchObject({ exitCode: 0 });
    expect((await pending).code).toBe('RUNTIME_EXITED');
    expect(isAlive(grandchild)).toBe(true);
  });

  test('dies in the middle of a stream, after the items that were delivered', async () => {
    const runtime = await start('dies-mid-stream');
    const items: unknown[] = [];
    const loop = async (): Promise<void> => {
      for await (const item of runtime.streamEcho(100)) items.push(item);
    };
    expect(await failure(loop())).toMatchObject({ signal: 'SIGKILL' });
    expect(items).toEqual(['a', 'b', 'c']);
  });
});

describe('a shutdown', () => {
  test('closes the input, and is the same however often it is asked for', async () => {
    const runtime = await start('good');
    const reports = await Promise.all([runtime.close(), runtime.close()]);
    expect(reports[0]).toMatchObject({ exitCode: 0, signal: null });
    expect(reports[1]).toEqual(reports[0]);
    expect(await runtime.close()).toEqual(reports[0]);
    expect(isAlive(runtime.pid)).toBe(false);
  });

  test('refuses new calls from then on', async () => {
    const runtime = await start('good');
    const closing = runtime.close();
    expect(await failure(runtime.echo(1))).toMatchObject({ code: 'CLOSING', retryable: true });
    expect(await failure(runtime.ping())).toMatchObject({ code: 'CLOSING' });
    await closing;
  });

  test('of a runtime that ignores it goes as far as SIGKILL', async () => {
    const shutdown = { graceMs: 20, termMs: 20, killMs: 5_000 };
    const runtime = await start('ignores-everything', { shutdown });
    const pending = failure(runtime.echo(1));
    expect(await runtime.close()).toMatchObject({ signal: 'SIGKILL' });
    expect(await pending).toMatchObject({ code: 'RUNTIME_EXITED', signal: 'SIGKILL' });
  });

  test('that the runtime announces lets pending calls finish and takes no new ones', async () => {
    const events: unknown[] = [];
    const runtime = await start('announces-closing', {
      onEvent: (name, payload) => events.push([name, payload]),
    });
    expect(await runtime.echo(1)).toBe('drained');
    expect(events).toEqual([['closing', { reason: 'signal' }]]);
    expect((await failure(runtime.echo(2))).code).toMatch(/CLOSING|RUNTIME_EXITED/);
    expect(await runtime.closed).toMatchObject({ exitCode: 0 });
  });

  test('happens by itself at the end of an `await using` block', async () => {
    let pid: number | undefined;
    {
      await using runtime = await createRuntime({ command: peer('good') });
      pid = runtime.pid;
    }
    expect(isAlive(pid)).toBe(false);
  });
});

describe('whoever hears of a step may', () => {
  test('close the runtime', async () => {
    const steps: string[] = [];
    let close: () => unknown = () => undefined;
    const runtime = await start('dies-at-request', {
      restart: { backoffMs: 1 },
      onState: ({ to }) => {
        steps.push(to);
        if (to === 'restarting') close();
      },
    });
    close = () => runtime.close();
    const { pid } = runtime;
    const waiting = failure(runtime.call('load_model', { source: 'x' }));
    expect((await waiting).code).toBe('RUNTIME_EXITED');
    await runtime.closed;
    await turn();
    expect(steps).toEqual(['running', 'restarting', 'closing', 'closed']);
    expect(runtime.pid).toBe(pid);
    expect(isAlive(pid)).toBe(false);
  });

  test('restart it once it was given up', async () => {
    let restart: () => unknown = () => undefined;
    const restarted = new Promise<void>((resolve) => {
      restart = () => resolve(runtime.restart());
    });
    const runtime = await start('dies-at-request', {
      restart: { limit: 0 },
      onState: ({ to }) => void (to === 'failed' && restart()),
    });
    expect((await failure(runtime.echo(1))).code).toMatch(/^RUNTIME_/);
    await restarted;
    expect(runtime.state).toBe('running');
  });
});

test('no process is begun beside one that does not end, until it has', async () => {
  const shutdown = { graceMs: 1, termMs: 1, killMs: 1 };
  const runtime = await start('ignores-everything', { shutdown, restart: { backoffMs: 1 } });
  const { pid } = runtime;
  const kill = vi.spyOn(ChildProcess.prototype, 'kill').mockReturnValue(true);
  onTestFinished(() => kill.mockRestore());
  const stays = { code: 'RUNTIME_FAILED', details: { cause: 'not_ended', pid } };
  expect(await failure(runtime.restart())).toMatchObject(stays);
  expect(await failure(runtime.restart())).toMatchObject(stays);
  expect([runtime.state, runtime.pid, isAlive(pid)]).toEqual(['failed', pid, true]);
  kill.mockRestore();
  process.kill(pid as number, 'SIGKILL');
  await vi.waitFor(() => runtime.restart(), { timeout: 10_000 });
  expect(runtime.pid).not.toBe(pid);
  expect(isAlive(pid)).toBe(false);
});

describe('health', () => {
  test('is told in every state', async () => {
    const runtime = await start('good', { restart: { backoffMs: 0, limit: 1 } });
    const { pid } = runtime;
    expect(await runtime.health()).toMatchObject({
      ...{ state: 'running', isReady: true, reason: null, restarts: 0, lastExit: null },
      runtime: { engine: { state: 'idle' } },
    });
    const restarted = runtime.restart();
    expect(await runtime.health()).toMatchObject({
      ...{ state: 'restarting', isReady: false, reason: 'it was asked to', runtime: null },
    });
    await restarted;
    expect(runtime.pid).not.toBe(pid);
    expect(await runtime.health()).toMatchObject({
      ...{ isReady: true, restarts: 1, lastExit: { exitCode: 0, signal: null } },
    });
    await runtime.close();
    expect(await runtime.health()).toMatchObject({
      state: 'closed',
      isReady: false,
      runtime: null,
    });
  });

  test('of a runtime that does not answer is told all the same', async () => {
    const runtime = await start('ignores-everything', {
      shutdown: { graceMs: 0, termMs: 0, killMs: 2_000 },
    });
    expect(await runtime.health()).toMatchObject({
      ...{ state: 'running', isReady: false, reason: 'the runtime has not answered' },
      runtime: null,
    });
  });
});

test('a flood on standard error blocks nobody, and only its end is kept', async () => {
  let seen = 0;
  const runtime = await start('floods-stderr', {
    onStderr: (text) => {
      seen += text.length;
    },
  });
  expect(await runtime.echo(1)).toBe('flooded');
  expect(seen).toBeGreaterThan(10_000_000);
  expect(runtime.stderr.length).toBeLessThanOrEqual(64 * 1024);
  expect(runtime.stderr.endsWith('end of flood')).toBe(true);
});

test('a script that forgets to close the runtime still ends, and so does the runtime', async () => {
  const script = here('./fixtures/forgets-close.mjs');
  const { stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 20_000 });
  const [answer, pid] = stdout.split(' ');
  expect(answer).toBe('ok');
  await expect.poll(() => isAlive(Number(pid))).toBe(false);
});

test('a script stays alive for a restart that it waits for', async () => {
  const script = here('./fixtures/awaits-restart.mjs');
  const { stdout } = await promisify(execFile)(process.execPath, [script], { timeout: 20_000 });
  expect(stdout).toMatch(/^RUNTIME_(EXITED|FAILED) running$/);
});

test('fifty starts leave no handle of theirs behind', async () => {
  const count = (): number => process.getActiveResourcesInfo().length;
  await (await createRuntime({ command: peer('good') })).close();
  const before = count();
  for (let starts = 0; starts < 50; starts++) {
    const runtime = await createRuntime({ command: peer('good') });
    await runtime.echo(1);
    await runtime.close();
  }
  await expect.poll(count).toBeLessThanOrEqual(before + 1);
});
