"""agent-memory beside Isthmus: the time to the first token, cold, hot and after a restart.

    python -m benchmarks.states.agent_memory --python VENV/bin/python [--contexts 1024 2048]

agent-memory (formerly "semantic") keeps KV caches of agents on disk behind an HTTP server. It is
not on PyPI and pins old libraries, so that it needs an environment of its own:

    git clone https://github.com/yshk-mxim/agent-memory && python3.11 -m venv VENV
    VENV/bin/pip install -e agent-memory "mlx[cpu]==0.30.3"      # without [cpu] on macOS
    VENV/bin/pip install --no-deps mlx-lm==0.30.4

Both have the same model, messages and BLAS, and a folder of their own. It keeps caches in 4 bits,
in memory as well, and attends to them so, which on a processor is slow; in what form Isthmus keeps
them on disk is for `--kv` to say. Part of no test and of no figure.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from isthmus import host

from ..harness import ROOT, Spread, machine, show
from . import models
from .sides import BLAS
from .talks import STATES, WARM

_MODULE: Final = "agent_memory.entrypoints.cli"
_WORDS: Final = (ROOT / "docs" / "protocol.md").read_text().split()
_CHARACTERS_PER_TOKEN: Final = 3
_TOKENS: Final = 8
_START_LIMIT_S: Final = 120.0
_END_LIMIT_S: Final = 30.0
_ANSWER_LIMIT_S: Final = 600.0
_POLL_S: Final = 0.1

Message = dict[str, str]


class AgentMemory:
    """Its server.

    Args:
        python: The interpreter that has it installed.
        model: A folder.
        folder: For its caches and its log.
    """

    name = "agent-memory"

    def __init__(self, python: Path, model: Path, folder: Path) -> None:
        self._python = python
        self._log = folder / "agent-memory.log"
        self._environment = {
            **os.environ,
            "SEMANTIC_MLX_MODEL_ID": str(model),
            "SEMANTIC_MLX_CACHE_BUDGET_MB": "2048",
            "SEMANTIC_MLX_MAX_CONTEXT_LENGTH": str(models.CONTEXT),
            "SEMANTIC_AGENT_CACHE_DIR": str(folder / "agent-memory"),
            "SEMANTIC_API_KEY": "",
            "HF_HUB_OFFLINE": "1",
            **({"LD_PRELOAD": BLAS.path} if BLAS.path else {}),
        }

    async def start(self) -> None:
        """Start the server, wait until it listens, and run a few tokens."""
        self._port = _free_port()
        place = ["--host", "127.0.0.1", "--port", str(self._port)]
        command = [str(self._python), "-m", _MODULE, "serve", *place]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, cwd=self._log.parent
            )
        end = time.monotonic() + _START_LIMIT_S
        while not self._is_listening():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"agent-memory does not start; its log ends:\n{self._tail()}")
            await asyncio.sleep(_POLL_S)
        await self.ask("warm-up", [{"role": "user", "content": "Are you there?"}])

    async def ask(self, name: str, messages: list[Message]) -> tuple[float, str]:
        """Return the milliseconds to the first text, and the whole text."""
        start = time.perf_counter()
        ttft_ms, text = None, ""
        for content in self._stream(name, messages):
            ttft_ms = ttft_ms or (time.perf_counter() - start) * 1e3
            text += content
        if ttft_ms is None:
            raise SystemExit(f"agent-memory gives no text; its log ends:\n{self._tail()}")
        return ttft_ms, text

    async def stop(self) -> None:
        """Have it save its caches and end."""
        self._process.terminate()
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _stream(self, name: str, messages: list[Message]) -> Iterator[str]:
        body = {"model": "default", "messages": messages, "max_tokens": _TOKENS}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_LIMIT_S)
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps({**body, "temperature": 0, "stream": True}),
            {"Content-Type": "application/json", "X-Session-ID": name},
        )
        for line in connection.getresponse():
            data = line.decode().strip().removeprefix("data: ")
            if data.startswith("{"):
                delta = json.loads(data)["choices"][0]["delta"]
                if delta.get("content"):
                    yield delta["content"]
        connection.close()

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2_000:]


class Isthmus:
    """A runtime, asked from Python."""

    name = "isthmus"

    def __init__(self, model: Path, folder: Path, kv: Any) -> None:
        self._source = str(model)
        self._kv = kv
        self._options = host.SessionOptions(dir=folder / "isthmus")

    async def start(self) -> None:
        """Start the runtime and run a few tokens."""
        self._runtime = await host.start(env=os.environ, sessions=self._options)
        self.model = await self._runtime.load_model(self._source, local_files_only=True)
        await self.model.generate("Are you there?", max_tokens=_TOKENS)

    async def ask(self, name: str, messages: list[Message]) -> tuple[float, str]:
        """Return the milliseconds to the first text, and the whole text."""
        session = await self._runtime.sessions.open(name, model=self.model, kv=self._kv)
        start = time.perf_counter()
        ttft_ms = 0.0
        generation = session.generate(messages=messages, max_tokens=_TOKENS)
        async for delta in generation:
            if delta.text:
                ttft_ms = ttft_ms or (time.perf_counter() - start) * 1e3
        text = (await generation).text
        await session.save()
        return ttft_ms, text

    async def stop(self) -> None:
        """End it."""
        await self._runtime.close()


Side = AgentMemory | Isthmus
Times = defaultdict[str, list[float]]


async def _measure(sides: list[Side], contexts: list[int], rounds: int) -> Times:
    """Have the sides take turns; the first round is not kept."""
    times: Times = defaultdict(list)
    for index in range(rounds + 1):
        for side in sides if index % 2 else sides[::-1]:
            found = await _round(side, contexts, index)
            for name, taken_ms in found.items() if index else ():
                times[f"{name} {side.name}"].append(taken_ms)
        print(f"  round {index} of {rounds}", flush=True)
    return times


async def _round(side: Side, contexts: list[int], index: int) -> dict[str, float]:
    """Go through the states with a conversation for each context; return what each took."""
    found: dict[str, float] = {}
    await side.start()
    talks = {context: [_user(_text(context, index))] for context in contexts}
    for state in STATES:
        if state == WARM:
            await side.stop()
            await side.start()
        for context, messages in talks.items():
            taken_ms, text = await side.ask(f"talk-{context}-{index}", messages)
            found[f"{context} {state}"] = taken_ms
            messages += [{"role": "assistant", "content": text}, _user("Go on, please.")]
    await side.stop()
    return found


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _text(context: int, seed: int) -> str:
    """Return words that the tokenizer makes about so many tokens of."""
    words = random.Random(f"{context} {seed}").choices(_WORDS, k=context)
    return " ".join(words)[: context * _CHARACTERS_PER_TOKEN]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, required=True, help="that has agent-memory")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1_024, 2_048, 4_096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv", default="native", help="how Isthmus keeps sessions on disk")
    parser.add_argument("--model", type=Path, help="a folder; a random Llama in fp32 unless given")
    chosen = parser.parse_args()
    probe = [str(chosen.python), "-c", f"import {_MODULE}"]
    try:
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        parser.error(f"{chosen.python} cannot import {_MODULE} ({error}); see --help")
    return chosen


def main() -> None:
    """Measure and print the medians, and all as a line of JSON."""
    chosen = _read_options()
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as path:
        folder = Path(path).resolve()
        model = chosen.model or models.write_all(folder)[models.MEDIUM].folder
        sides: list[Side] = [
            AgentMemory(chosen.python, model, folder),
            Isthmus(model, folder, chosen.kv),
        ]
        times = asyncio.run(_measure(sides, chosen.contexts, chosen.rounds))
    summaries = {name: Spread.of(taken).to_json() for name, taken in sorted(times.items())}
    show("time to the first text, ms", summaries)
    print(json.dumps({"ttft_ms": summaries, "kv": chosen.kv, "machine": machine()}))


if __name__ == "__main__":
    main()
