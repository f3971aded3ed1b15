/**
 * Which of the host's environment variables the runtime gets.
 *
 * An allow-list: a host's secrets do not leak into a process that may run model code. What is
 * missing is passed explicitly. Knows nothing of processes.
 */

const NAMES = new Set([
  ...['PATH', 'HOME', 'USER', 'LOGNAME', 'LANG', 'LANGUAGE', 'TZ', 'TMPDIR', 'TEMP', 'TMP'],
  ...['SYSTEMROOT', 'SYSTEMDRIVE', 'WINDIR', 'COMSPEC', 'PATHEXT', 'USERPROFILE', 'USERNAME'],
  ...['APPDATA', 'LOCALAPPDATA', 'PROGRAMDATA', 'NUMBER_OF_PROCESSORS', 'PROCESSOR_ARCHITECTURE'],
  ...['HF_HOME', 'HF_ENDPOINT', 'XDG_CACHE_HOME', 'VIRTUAL_ENV', 'CONDA_PREFIX'],
  ...['SSL_CERT_FILE', 'SSL_CERT_DIR', 'REQUESTS_CA_BUNDLE'],
]);

const PATTERN =
  /^(LC_|HF_HUB_|OPENBLAS_|OMP_|MLX_|ISTHMUS_)|^(http|https|all|no|ftp)_proxy$|^(HTTP|HTTPS|ALL|NO|FTP)_PROXY$/;

/** Choose from `host` what is allowed and add `extra`, which wins. */
export function childEnvironment(
  host: NodeJS.ProcessEnv,
  extra: Readonly<Record<string, string | undefined>> = {},
  isWindows: boolean = process.platform === 'win32',
): Record<string, string> {
  const chosen: Record<string, string> = {};
  for (const [name, value] of Object.entries(host)) {
    if (value !== undefined && isAllowed(isWindows ? name.toUpperCase() : name)) {
      chosen[name] = value;
    }
  }
  for (const [name, value] of Object.entries(extra)) {
    if (value === undefined) delete chosen[name];
    else chosen[name] = value;
  }
  return chosen;
}

function isAllowed(name: string): boolean {
  return NAMES.has(name) || PATTERN.test(name);
}
