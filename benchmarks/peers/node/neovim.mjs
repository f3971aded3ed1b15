/** The transport of `neovim`, Neovim's own client for Node. */

import { Transport } from 'neovim/lib/utils/transport.js';
import { startOn } from './msgpack-rpc.mjs';

export async function start(python) {
  return startOn(new Transport(), python);
}
