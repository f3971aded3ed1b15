import { expect, test } from 'vitest';
import { childEnvironment } from '../../../bridge/src/process/environment.js';
import { StderrRing } from '../../../bridge/src/process/stderr-ring.js';

const allowed = {
  PATH: '/bin',
  HOME: '/home/x',
  LC_ALL: 'C',
  HF_HOME: '/hf',
  HF_HUB_OFFLINE: '1',
  MLX_X: '1',
  OMP_NUM_THREADS: '2',
  ISTHMUS_PYTHON: 'python3',
  https_proxy: 'http://p',
  NO_PROXY: 'x',
  VIRTUAL_ENV: '/venv',
};

test('what the runtime needs passes, and nothing else does', () => {
  const secrets = {
    HF_TOKEN: 's',
    AWS_SECRET_ACCESS_KEY: 's',
    LD_PRELOAD: '/evil.so',
    PYTHONPATH: '/evil',
    NODE_OPTIONS: 's',
    MY_LC_ALL: 's',
  };
  expect(childEnvironment({ ...allowed, ...secrets }, {}, false)).toEqual(allowed);
});

test('what is given explicitly passes and wins, and undefined removes', () => {
  const extra = { PYTHONPATH: '/mine', PATH: '/other', HOME: undefined };
  const { HOME: _, ...rest } = allowed;
  expect(childEnvironment(allowed, extra, false)).toEqual({
    ...rest,
    PYTHONPATH: '/mine',
    PATH: '/other',
  });
});

test('on Windows the case of a name does not matter', () => {
  const host = { Path: 'C:\\', SystemRoot: 'C:\\Windows', Secret: 's' };
  expect(childEnvironment(host, {}, true)).toEqual({ Path: 'C:\\', SystemRoot: 'C:\\Windows' });
});

test('of standard error the last bytes are kept, as whole characters', () => {
  const ring = new StderrRing(10);
  for (const text of ['a long beginning', 'ééééé', 'x']) ring.push(Buffer.from(text));
  expect(ring.toString()).toBe('ééééx');
  ring.push(Buffer.alloc(1_000_000, 'y'));
  expect(ring.toString()).toBe('y'.repeat(10));
});
