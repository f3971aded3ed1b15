"""The parts of the runtime with fault points in them, in place of the plain ones with `--faults`.

Each does what the plain part does and says before that its point is passed. Without `--faults` the
plain part is made, so that the points of the wire, of requests and of texts cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

from ..faults import Faults, Point
from ..models.load import LoadedModel
from ..multiplex.multiplexer import Multiplexer, Operation, Outcome
from ..text.batch import Decode, Encode, Result
from ..text.pool import TextPool
from ..transport.stdio import Decoder
from ..transport.writer import OrderedWriter, Sink
from ..wire.codec import Codec, Payload
from .requests import Call
from .router import Method, Router
from .text_operations import TextOperations

T = TypeVar("T")
P = TypeVar("P", Encode, Decode)


def make_decoder(decoder: Decoder, faults: Faults | None) -> Decoder:
    """Return what cuts the host's bytes."""
    return decoder if faults is None else _FaultyDecoder(decoder, faults)


def make_writer(
    codec: Codec, loop: asyncio.AbstractEventLoop, piece_bytes: int, faults: Faults | None
) -> OrderedWriter:
    """Return what writes to the host."""
    if faults is None:
        return OrderedWriter(codec, loop, piece_bytes)
    return _FaultyWriter(codec, loop, piece_bytes, faults)


def make_operations(multiplexer: Multiplexer, faults: Faults | None) -> TextOperations:
    """Return what computes texts, with its threads."""
    if faults is None:
        return TextOperations(TextPool(), multiplexer)
    return _FaultyTextOperations(_FaultyPool(faults), multiplexer, faults)


class _FaultyDecoder:
    """Passes `read` for each read from the host."""

    def __init__(self, decoder: Decoder, faults: Faults) -> None:
        self._decoder = decoder
        self._faults = faults

    def feed(self, data: bytes) -> Iterable[Payload]:
        """Yield the payloads that `data` completes."""
        return self._decoder.feed(self._faults.corrupt(Point.READ, data))

    def eof(self) -> None:
        """Say that the input has ended."""
        self._decoder.eof()


class _FaultySink:
    def __init__(self, sink: Sink, faults: Faults) -> None:
        self._sink = sink
        self._faults = faults

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        self._sink.write(self._faults.corrupt(Point.WRITE, data))

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """Queue bytes; joined, so that they are one pass."""
        self.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the other side has not taken yet."""
        return self._sink.get_write_buffer_size()


class _FaultyWriter(OrderedWriter):
    """Passes `write` for each write to the host."""

    def __init__(
        self, codec: Codec, loop: asyncio.AbstractEventLoop, piece_bytes: int, faults: Faults
    ) -> None:
        super().__init__(codec, loop, piece_bytes)
        self._faults = faults

    def attach(self, sink: Sink) -> None:
        """Start to write to `sink`."""
        super().attach(_FaultySink(sink, self._faults))


class _FaultyPool(TextPool):
    """Passes `text` in the thread that computes a batch."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run tokenizer work."""

        def pass_and_work() -> T:
            self._faults.strike(Point.TEXT)
            return work()

        return super().run(pass_and_work)

    async def run_templates(self, renderings: Sequence[Callable[[], T]]) -> list[T]:
        """Render chat templates, each a batch of its own here."""

        def passing(render: Callable[[], T]) -> Callable[[], T]:
            def pass_and_render() -> T:
                self._faults.strike(Point.TEXT)
                return render()

            return pass_and_render

        return await super().run_templates([passing(render) for render in renderings])


class _FaultyOperation:
    """Passes `text` on the loop for a batch that is computed there."""

    def __init__(self, operation: Operation, faults: Faults) -> None:
        self._operation = operation
        self._faults = faults
        self.label = operation.label
        self.batch_cost = operation.batch_cost

    def cost(self, item: Any) -> int:
        """Return the cost of one item."""
        return self._operation.cost(item)

    def now(self, items: Sequence[Any], cost: int) -> list[Outcome] | None:
        """Return the outcomes, computed on the event loop, or None when that would stall it."""
        outcomes = self._operation.now(items, cost)
        if outcomes is not None:
            self._faults.strike(Point.TEXT)
        return outcomes

    def begin(self, items: Sequence[Any]) -> Awaitable[list[Outcome]]:
        """Compute in a thread, which passes the point."""
        return self._operation.begin(items)


class _FaultyTextOperations(TextOperations):
    """Passes `text` also for what is computed on the loop."""

    def __init__(self, pool: TextPool, multiplexer: Multiplexer, faults: Faults) -> None:
        super().__init__(pool, multiplexer)
        self._faults = faults

    def encode(self, model: LoadedModel, result: Result, special: bool, is_long: bool) -> Encode:
        """Return the operation for texts."""
        return self._faulty(model, super().encode(model, result, special, is_long))

    def decode(self, model: LoadedModel, skip_special_tokens: bool) -> Decode:
        """Return the operation for ids."""
        return self._faulty(model, super().decode(model, skip_special_tokens))

    def _faulty(self, model: LoadedModel, plain: P) -> P:
        # The same for the same operation: what shares batches is found by identity.
        operation = cast(Operation, plain)
        faulty = model.operation(
            ("faulty", plain), lambda: _FaultyOperation(operation, self._faults)
        )
        return cast(P, faulty)


def instrument(router: Router, faults: Faults) -> Router:
    """Return a router whose methods pass `request` first."""
    instrumented = Router()
    for name in router.names:
        instrumented.register(name, **_forms(router.find(name), faults))
    return instrumented


def _forms(method: Method, faults: Faults) -> dict[str, Any]:
    inline, begin, run = method.inline, method.begin, method.run

    def faulty_inline(params: dict[str, Any]) -> object:
        faults.strike(Point.REQUEST, method.name)
        assert inline is not None
        return inline(params)

    def faulty_begin(call: Call, params: dict[str, Any]) -> None:
        faults.strike(Point.REQUEST, method.name)
        assert begin is not None
        begin(call, params)

    def faulty_run(call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        faults.strike(Point.REQUEST, method.name)
        assert run is not None
        return run(call, params)

    if inline is not None:
        return {"inline": faulty_inline}
    return {"begin": faulty_begin} if begin is not None else {"run": faulty_run}
