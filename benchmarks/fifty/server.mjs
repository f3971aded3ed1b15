/**
 * `mlx_lm.server` from Node: chat completions as server-sent events, over connections that are kept
 * where the server keeps them. Where Python is, and the server's variables, come on the command
 * line.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { serve } from '../ipc/driver.mjs';
import { askAll } from './asking.mjs';

const [, , python, variables] = process.argv;
const CONCURRENCY = ['--decode-concurrency', '32', '--prompt-concurrency', '16'];
const START_LIMIT_MS = 60_000;
const KILL_AFTER_MS = 3_000;
const RETRY_MS = 5;
const SAID_LIMIT = 2_000;
const agent = new Agent({ keepAlive: true, maxSockets: 16 });
let child;
let port;
let said = '';

/** From nothing: process, model, first token; seconds. The server does not say when it has loaded. */
async function start({ source, text }) {
  const begun = performance.now();
  port = await freePort();
  const command = ['-m', 'benchmarks.fifty.server_peer', '--model', source, '--port', `${port}`];
  child = spawn(python, [...command, '--log-level', 'ERROR', ...CONCURRENCY], {
    env: { ...process.env, PYTHONWARNINGS: 'ignore', ...JSON.parse(variables) },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  // A line for each request; only the end is of interest, when it fails.
  child.stderr.setEncoding('utf8').on('data', (text) => {
    said = (said + text).slice(-SAID_LIMIT);
  });
  await listening(begun + START_LIMIT_MS);
  await answer({ text }, () => 0, { maxTokens: 1, temperature: 0 });
  return { firstTokenS: (performance.now() - begun) / 1_000, pid: child.pid };
}

async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port: free } = probe.address();
  probe.close();
  await once(probe, 'close');
  return free;
}

async function listening(deadline) {
  while (performance.now() < deadline) {
    if (child.exitCode !== null) throw new Error(`mlx_lm.server has ended: ${said}`);
    try {
      const response = await send('GET', '/health');
      response.resume();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
  throw new Error('mlx_lm.server did not come up');
}

async function stop() {
  if (child === undefined || child.exitCode !== null) return {};
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), KILL_AFTER_MS);
  await ended;
  clearTimeout(killer);
  return {};
}

function send(method, path, body) {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'Content-Type': 'application/json' };
    if (body !== undefined) headers['Content-Length'] = Buffer.byteLength(body);
    const call = request({ agent, host: '127.0.0.1', port, method, path, headers });
    call.once('response', resolve).once('error', reject).end(body);
  });
}

function chat({ text }, { maxTokens, temperature }, more) {
  const messages = [{ role: 'user', content: text }];
  const body = { messages, max_tokens: maxTokens, temperature, ...more };
  return send('POST', '/v1/chat/completions', JSON.stringify(body));
}

/** One answer as a stream; its first token is seen with its first text. */
async function answer(question, clock, settings) {
  const more = { stream: true, stream_options: { include_usage: true } };
  const response = await chat(question, settings, more);
  let firstTextMs;
  let usage;
  for await (const line of createInterface({ input: response })) {
    if (!line.startsWith('data: {')) continue;
    const event = JSON.parse(line.slice('data: '.length));
    if (event.choices[0]?.delta?.content) firstTextMs ??= clock();
    usage ??= event.usage;
  }
  const responseMs = clock();
  if (usage === undefined) throw new Error(`the server answered ${response.statusCode}: ${said}`);
  const { bytesWritten, bytesRead } = response.socket;
  return {
    responseMs,
    ttftMs: firstTextMs ?? responseMs,
    firstTextMs: firstTextMs ?? responseMs,
    tokens: usage.completion_tokens,
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    bytesWritten,
    bytesRead,
  };
}

async function ask({ questions, atOnce, maxTokens, temperature }) {
  const asked = await askAll(questions, atOnce, (question, clock) =>
    answer(question, clock, { maxTokens, temperature }),
  );
  // It answers in HTTP/1.0 and ends each connection, so that these are the bytes of one answer.
  const sum = (key) => asked.answers.reduce((total, each) => total + each[key], 0);
  return { ...asked, bytesSent: sum('bytesWritten'), bytesReceived: sum('bytesRead') };
}

/** The greedy ids of each answer; the server tells them only when it does not stream. */
async function greedyIds({ questions, atOnce, maxTokens }) {
  const { answers } = await askAll(questions, atOnce, async (question) => {
    const settings = { maxTokens, temperature: 0 };
    const response = await chat(question, settings, { logprobs: true });
    let body = '';
    for await (const chunk of response.setEncoding('utf8')) body += chunk;
    return { ids: JSON.parse(body).choices[0].logprobs.content.map(({ id }) => id) };
  });
  return { answers };
}

await serve({ start, stop, ask, greedyIds }, stop);
