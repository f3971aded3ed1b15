"""The command line: `isthmus runtime | doctor | models | bench`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__
from .errors import InvalidRequest, IsthmusError
from .faults import parse_spec, usage
from .limits import (
    DRAIN_GRACE_S,
    FRAME_LIMIT_BYTES,
    MODEL_IDLE_TIMEOUT_LIMIT_MS,
    MODEL_IDLE_TIMEOUT_S,
    PIECE_BYTES,
    PREFILL_CHUNK_TOKENS,
    PROMPT_CACHE_BYTES,
    SESSION_DISK_BYTES,
    SESSION_FREE_DISK_BYTES,
    SESSION_TTL_S,
)
from .settings import Settings
from .transport.claim import ClaimedPipes, unusable_end

_USAGE_ERROR = 2
_THREAD_SWITCH_S = 0.0005
"""A busy engine thread would keep the interpreter for 5 ms at a time."""


def run_command(arguments: Sequence[str]) -> int:
    """Run a command other than `runtime` itself; return the exit code."""
    options = _parser().parse_args(arguments)
    if not hasattr(options, "run"):
        _parser().print_help()
        return _USAGE_ERROR
    try:
        return int(options.run(options))
    except IsthmusError as error:
        sys.stderr.write(f"isthmus: {error.message}\n")
        return 1


def run_runtime_command(arguments: Sequence[str], pipes: ClaimedPipes) -> NoReturn:
    """Serve the host at the other end of `pipes`; ends the process."""
    options = _runtime_parser(None).parse_args(arguments)
    settings = Settings(
        codec=options.codec,
        model_roots=tuple(options.model_root),
        blas=options.blas,
        frame_limit_bytes=options.frame_limit_bytes,
        piece_bytes=options.piece_bytes,
        prefill_chunk_tokens=options.prefill_chunk_tokens,
        prompt_cache_bytes=options.prompt_cache_bytes,
        model_memory_bytes=options.model_memory_bytes,
        model_idle_timeout_s=options.model_idle_timeout_s,
        preload=tuple(options.preload),
        session_dir=options.session_dir,
        session_disk_bytes=options.session_disk_bytes,
        session_free_disk_bytes=options.session_free_disk_bytes,
        session_memory_bytes=options.session_memory_bytes,
        session_ttl_s=options.session_ttl_s,
        session_fsync=options.session_fsync,
        faults=tuple(options.fault) if options.faults or options.fault else None,
        drain_grace_s=options.drain_grace_s,
    )
    serve(pipes, settings)


def serve(pipes: ClaimedPipes, settings: Settings, extend: object = None) -> NoReturn:
    """Run the runtime on `pipes` and end the process with its exit code.

    Args:
        extend: Adds methods of a host program's own; see `runtime.app.Extend`.
    """
    import faulthandler

    from .engine.blas import interpose

    faulthandler.enable()
    sys.setswitchinterval(_THREAD_SWITCH_S)
    blas = interpose(settings.blas)
    from .runtime.app import run_runtime

    problem = unusable_end(pipes)
    if problem is not None:
        sys.stderr.write(f"isthmus runtime: {problem}; a host program spawns this command\n")
        os._exit(_USAGE_ERROR)
    code = 1
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        code = runner.run(run_runtime(pipes, settings, blas, extend))  # type: ignore[arg-type]
    except BaseException:
        traceback.print_exc()
    finally:
        # Closing the loop would wait for a thread that downloads, and interpreter shutdown with a
        # thread inside MLX can end in std::terminate.
        os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isthmus", description="Run MLX language models for a host program over stdio."
    )
    parser.add_argument("--version", action="version", version=f"isthmus {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _runtime_parser(commands)
    doctor = commands.add_parser("doctor", help="say what is installed and whether it works")
    doctor.set_defaults(run=_doctor)
    _models_parser(commands)
    bench = commands.add_parser("bench", help="say how to run the benchmarks")
    bench.set_defaults(run=_bench)
    return parser


def _runtime_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser] | None,
) -> argparse.ArgumentParser:
    description = "Serve a host over standard input and output (docs/protocol.md)."
    if commands is None:
        parser = argparse.ArgumentParser(prog="isthmus runtime", description=description)
    else:
        parser = commands.add_parser("runtime", help="serve a host", description=description)
    parser.add_argument("--codec", choices=("msgpack", "json"), default="msgpack")
    parser.add_argument(
        "--model-root",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="local models must lie in this folder; may be given several times",
    )
    parser.add_argument(
        "--blas",
        default="auto",
        help="Linux: the BLAS library to put in front of mlx's: auto, off, or a path",
    )
    parser.add_argument("--frame-limit-bytes", type=int, default=FRAME_LIMIT_BYTES)
    parser.add_argument("--piece-bytes", type=int, default=PIECE_BYTES)
    parser.add_argument("--prefill-chunk-tokens", type=int, default=PREFILL_CHUNK_TOKENS)
    parser.add_argument(
        "--prompt-cache-bytes",
        type=int,
        default=PROMPT_CACHE_BYTES,
        help="KV caches that each model keeps for prompts that begin alike; 0 keeps none",
    )
    parser.add_argument(
        "--model-memory-bytes",
        type=_bytes,
        metavar="BYTES",
        help="what loaded models may take together; by default 75 %% of what the machine allows",
    )
    parser.add_argument(
        "--model-idle-timeout-s",
        type=_seconds,
        default=MODEL_IDLE_TIMEOUT_S,
        metavar="SECONDS",
        help="how long a model that nobody has a reference to stays in memory; 0: not at all",
    )
    parser.add_argument(
        "--preload",
        action="append",
        default=[],
        metavar="SOURCE",
        help="load this model at the start and keep it in memory; may be given several times",
    )
    _add_session_arguments(parser)
    parser.add_argument("--drain-grace-s", type=float, default=DRAIN_GRACE_S)
    parser.add_argument(
        "--faults",
        action="store_true",
        help="let the host inject faults: for tests; never where it matters",
    )
    parser.add_argument(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="SPEC",
        help=f"inject a fault from the start; may be given several times. {usage()}",
    )
    return parser


def _add_session_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--session-dir",
        type=_session_dir,
        default=_session_dir_default(),
        metavar="FOLDER",
        help="where sessions are kept on disk (%(default)s); none: in memory only",
    )
    parser.add_argument(
        "--session-disk-bytes",
        type=_bytes,
        default=SESSION_DISK_BYTES,
        metavar="BYTES",
        help="what sessions may take on disk; the least recently used leave first (%(default)s)",
    )
    parser.add_argument(
        "--session-free-disk-bytes",
        type=_bytes_or_none,
        default=SESSION_FREE_DISK_BYTES,
        metavar="BYTES",
        help="what sessions leave free of the disk (%(default)s)",
    )
    parser.add_argument(
        "--session-memory-bytes",
        type=_bytes_or_none,
        metavar="BYTES",
        help="what KV caches that are kept may take in memory, at most; by default half of what "
        "models may, and never what they need",
    )
    parser.add_argument(
        "--session-ttl-s",
        type=_seconds,
        default=SESSION_TTL_S,
        metavar="SECONDS",
        help="how long a session that nobody uses is kept on disk (%(default)s)",
    )
    parser.add_argument(
        "--session-fsync",
        action="store_true",
        help="a save has reached the disk when it is done: for who fears power cuts",
    )


def _session_dir_default() -> Path | None:
    """Return a folder of the user's own for what can be made again."""
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "isthmus" / "sessions"
    except RuntimeError:  # there is no home
        return None


def _session_dir(text: str) -> Path | None:
    if text == "none":
        return None
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a folder is wanted, or none")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fault(text: str) -> str:
    try:
        parse_spec(text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return text


def _bytes(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"a number of bytes above 0 is wanted, not {text!r}")
    return int(text)


def _bytes_or_none(text: str) -> int:
    return 0 if text == "0" else _bytes(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 <= value * 1_000 <= MODEL_IDLE_TIMEOUT_LIMIT_MS:
            return value
    raise argparse.ArgumentTypeError(f"a number of seconds, 0 or more, is wanted, not {text!r}")


def _models_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    models = commands.add_parser("models", help="the built-in models")
    actions = models.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser("list", help="show the built-in models and their scores")
    show.set_defaults(run=_models_list)
    train = actions.add_parser(
        "train-default", help="train the built-in models again (needs isthmus[train])"
    )
    train.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    train.add_argument("--minutes", type=float, default=40.0)
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=_train_default)
    score = actions.add_parser("score-default", help="score the built-in models again")
    score.set_defaults(run=_score_default)


def _doctor(_options: argparse.Namespace) -> int:
    from .doctor import run_doctor

    return run_doctor(sys.stdout.write)


def _models_list(_options: argparse.Namespace) -> int:
    from .doctor import describe_builtin

    describe_builtin(sys.stdout.write)
    return 0


def _train_default(options: argparse.Namespace) -> int:
    from .models.training import train_default

    train_default(options.output, options.minutes, options.seed, _report)
    return 0


def _score_default(_options: argparse.Namespace) -> int:
    from .engine.blas import interpose

    interpose()
    from .models import BUILTIN_ROOT
    from .models.training import evaluate_builtin

    _report(str(evaluate_builtin(BUILTIN_ROOT)))
    return 0


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _bench(_options: argparse.Namespace) -> int:
    sys.stdout.write(
        "The benchmarks live in the repository, not in this package. In a clone:\n"
        "  make bench                                    all of them, in quick mode\n"
        "  .venv/bin/python -m benchmarks.ipc_floor      one of them, in full\n"
    )
    return 0
