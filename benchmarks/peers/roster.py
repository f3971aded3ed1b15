"""Who takes part: what each peer is, how it is started, and whether it counts as a rival."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from ..harness import node_path
from ..ipc import subjects
from ..processes import Subject
from ..texts import TOKENIZER
from . import install


@dataclass(frozen=True, slots=True)
class Peer:
    """A way from Node to Python.

    Attributes:
        name: Its name in the tables.
        what: The packages on both sides, and what is between them.
        module: The Node program in `node/` that uses it.
        is_rival: Whether it is a published package in a process of its own.
    """

    name: str
    what: str
    module: str
    is_rival: bool = True

    def start(self) -> Subject:
        """Start its Node program; `ready` has to be asked first."""
        program, module = install.HERE / "node" / "subject.mjs", f"{self.module}.mjs"
        python = sys.executable if self is OURS else str(install.PYTHON)
        return Subject(self.name, [node_path(), str(program), module, python, str(TOKENIZER)])


class Floor(Peer):
    """Raw bytes through the same pipes: it can echo and nothing else."""

    __slots__ = ()

    def start(self) -> Subject:
        """Start the floor of `benchmarks.ipc_floor`."""
        return subjects.raw()


OURS: Final = Peer("isthmus", "Isthmus: msgpack frames over standard streams", "isthmus", False)
FLOOR: Final = Floor("raw bytes", "no package: bytes over standard streams", "", False)
PYTHON_SHELLS: Final = (
    Peer("python-shell", "python-shell: JSON lines with ids over standard streams", "python-shell"),
    Peer(
        "python-shell in order",
        "python-shell: JSON lines without ids, matched by their order",
        "python-shell-in-order",
    ),
)
NEOVIM_STYLE: Final = (
    Peer("neovim", "neovim to pynvim: msgpack-rpc over standard streams", "neovim"),
    Peer(
        "coc neovim",
        "@chemzqm/neovim to pynvim: msgpack-rpc over standard streams",
        "coc-neovim",
    ),
)
PEERS: Final = (
    FLOOR,
    *PYTHON_SHELLS,
    *NEOVIM_STYLE,
    Peer("pythonia", "pythonia: proxies of Python objects over a socket pair", "pythonia"),
    Peer("zeromq", "zeromq to pyzmq: dealers over a Unix socket", "zeromq"),
    Peer(
        "vscode-jsonrpc",
        "vscode-jsonrpc to python-lsp-jsonrpc over standard streams",
        "vscode-jsonrpc",
    ),
    Peer("http", "undici to uvicorn: kept-alive HTTP over a Unix socket", "http"),
    Peer("grpc", "@grpc/grpc-js to grpcio on asyncio, over a Unix socket", "grpc"),
    Peer("node-calls-python", "node-calls-python: in the same process", "node-calls-python", False),
)
