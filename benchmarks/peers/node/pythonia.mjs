/**
 * pythonia: Python objects as proxies, over a socket pair with lines of JSON.
 *
 * A list would come back as a proxy and cost a second call for its value; ids therefore come as
 * text, which comes back with the call. The describing of objects for logs is switched off.
 */

import { script, watch } from './python.mjs';

export async function start(path) {
  process.env.PYTHON_BIN = path;
  const { python, com } = (await import('pythonia')).default;
  watch(com.proc);
  python.setFastMode(true);
  const module = await python(script('pythonia_peer.py'));
  return {
    echo: (text) => module.echo(text),
    tokenize: async (text) => JSON.parse(await module.tokenize(text)),
    stream: async (count, take) => {
      for await (const index of await module.stream(count)) take(index);
    },
    close: () => python.exit(),
  };
}
