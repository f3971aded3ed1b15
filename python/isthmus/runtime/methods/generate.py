"""`generate`: from a request's params to a job of the engine, and from its tokens to deltas.

Every option is read, checked and passed on to mlx-lm, or refused by name. A cancel or deadline
settles the request at once with what it has; the engine drops the job within one step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from ...engine.job import Job, Outcome, Phase, Steps
from ...engine.thread import EngineThread
from ...errors import Cancelled, DeadlineExceeded, InvalidRequest, IsthmusError, own_copy
from ...limits import (
    CREDIT_LIMIT,
    MAX_TOKENS_DEFAULT,
    STOP_STRING_CHARS_LIMIT,
    STOP_STRINGS_LIMIT,
    TOP_LOGPROBS_LIMIT,
)
from ...models.load import LoadedModel
from ...text.stream import TextStream
from ...wire.codec import token_ids
from ..params import Params
from ..prompts import prompt_ids
from ..requests import Call
from ..router import Router
from ..sampling_params import read_sampling
from ..services import Services

_STOP_IDS_LIMIT: Final = 65_536
_CONTEXT_LIMIT: Final = 2**31 - 1


def register(router: Router, services: Services) -> None:
    """Add the method."""
    router.register("generate", run=GenerateMethod(services).run)


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The params of `generate` besides the prompt and what is sampled."""

    sampling: dict[str, Any]
    max_tokens: int | None
    stops: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    logprobs: int | None
    is_streamed: bool


class GenerateMethod:
    """Answers `generate`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def run(self, call: Call, params: dict[str, Any]) -> Coroutine[Any, Any, None]:
        """Check the options at once; return the coroutine that generates and settles the call."""
        fields = Params(params)
        model = self._services.models.get(fields.typed("model", str))
        options = read_options(fields, model)
        generation = Generation(call, options, self._services.engine, time.monotonic)
        return self._generate(generation, model, fields)

    async def _generate(self, generation: Generation, model: LoadedModel, fields: Params) -> None:
        field = next((name for name in ("ids", "messages") if name in fields), "prompt")
        prompt = await prompt_ids(self._services.text, model, fields)
        fields.done()
        if generation.call.is_settled:
            return
        # It may have been unloaded while the prompt was made.
        self._services.models.get(model.handle)
        max_tokens = _room(model, prompt, field, generation.options)
        job = self._job(model, prompt, max_tokens, generation)
        self._services.engine.submit(job)
        generation.job = job
        try:
            await generation.done.wait()
        finally:
            self._services.engine.settled()

    def _job(
        self,
        model: LoadedModel,
        prompt: list[int],
        max_tokens: int,
        generation: Generation,
    ) -> Job:
        options, network = generation.options, model.network
        chunk = self._services.settings.prefill_chunk_tokens

        def open_job() -> tuple[Steps, TextStream]:
            from ...engine.generate import open_sequence
            from ...engine.sampling import SamplingOptions

            sampling = SamplingOptions(**options.sampling)
            steps = open_sequence(network, model.vocab_size, prompt, sampling, max_tokens, chunk)
            return steps, TextStream(model.tokenizer.wrapper.detokenizer, options.stops)

        def describe(steps: Any, token: int) -> dict[str, Any]:
            from ...engine.sampling import top_logprobs

            return top_logprobs(steps.logprobs, token, options.logprobs or 0)

        ends = frozenset() if options.ignore_eos else model.tokenizer.end_tokens
        return Job(
            prompt=prompt,
            max_tokens=max_tokens,
            end_tokens=ends | frozenset(options.stop_token_ids),
            open=open_job,
            describe=None if options.logprobs is None else describe,
            listener=generation,
            granted=generation.granted,
        )


class Generation:
    """One `generate` on the event loop: gathers tokens into deltas and settles the call."""

    def __init__(
        self,
        call: Call,
        options: GenerateOptions,
        engine: EngineThread,
        clock: Callable[[], float],
    ) -> None:
        self.call = call
        self.options = options
        self.job: Job | None = None
        """Set once the engine has it."""
        self.done = asyncio.Event()
        self._engine = engine
        self._clock = clock
        self._ids: list[int] = []
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._completion_tokens = 0
        self._is_flush_due = False
        self._granted = call.options.credit if options.is_streamed else CREDIT_LIMIT
        call.on_credit = self._grant
        call.on_interrupt = self._interrupt

    @property
    def granted(self) -> int:
        """Tokens that the reader has room for, counted from the first."""
        return self._granted

    def on_prefill(self, done: int, total: int) -> None:
        """Tell the host that a long prompt is being worked on."""
        progress = {"stage": "prefill", "done": done, "total": total, "unit": "tokens"}
        self.call.event("progress", progress)

    def on_tokens(self, ids: list[int], text: str, logprobs: list[dict[str, Any]]) -> None:
        """Keep tokens for this turn's delta."""
        self._ids += ids
        self._text.append(text)
        self._logprobs += logprobs
        self._completion_tokens += len(ids)
        if self.options.is_streamed and not self._is_flush_due:
            self._is_flush_due = True
            self._engine.at_turn_end(self._flush)

    def on_end(self, outcome: Outcome) -> None:
        """Settle."""
        self._settle(self._summary(outcome))

    def on_error(self, error: IsthmusError) -> None:
        """Settle with the engine's error."""
        self._flush()
        # A copy: when the engine dies all jobs are given the same error.
        own = own_copy(error)
        own.details = {"completion_tokens": self._completion_tokens, **error.details}
        self.call.error(own)
        self.done.set()

    def _flush(self) -> None:
        self._is_flush_due = False
        has_something = bool(self._ids) or any(self._text)
        if not has_something or not self.options.is_streamed:
            return
        count = max(len(self._ids), 1)
        payload = self._take()
        self.call.delta(count, payload)

    def _take(self) -> dict[str, Any]:
        payload: dict[str, Any] = {"text": "".join(self._text), "ids": token_ids(self._ids)}
        if self.options.logprobs is not None:
            payload["logprobs"] = self._logprobs
        self._ids, self._text, self._logprobs = [], [], []
        return payload

    def _settle(self, summary: dict[str, Any]) -> None:
        if self.options.is_streamed:
            self._flush()
            self.call.end(summary)
        else:
            self.call.result({**self._take(), **summary})
        self.done.set()

    def _grant(self, count: int) -> None:
        self._granted = min(self._granted + count, CREDIT_LIMIT)
        if self.job is not None:
            self.job.granted = self._granted
            self._engine.wake()

    def _interrupt(self, error: IsthmusError) -> None:
        """Settle now: a cancel with what there is, a deadline with its error."""
        phase = Phase.QUEUE
        if self.job is not None:
            self.job.is_cancelled = True
            self._engine.wake()
            phase = Phase.DECODE if self.job.phase is Phase.DONE else self.job.phase
        if isinstance(error, DeadlineExceeded):
            self.on_error(DeadlineExceeded(error.message, phase=phase.value))
        elif isinstance(error, Cancelled):
            self._settle(self._summary(self._cancelled()))
        else:
            self.on_error(error)

    def _cancelled(self) -> Outcome:
        now, job = self._clock(), self.job
        return Outcome(
            finish_reason="cancelled",
            stop=None,
            prompt_tokens=0 if job is None else len(job.prompt),
            completion_tokens=self._completion_tokens,
            started_at=now if job is None else job.started_at or now,
            first_token_at=now if job is None else job.first_token_at or now,
            ended_at=now,
        )

    def _summary(self, outcome: Outcome) -> dict[str, Any]:
        first = outcome.first_token_at or outcome.ended_at
        prefill_s, decode_s = first - outcome.started_at, outcome.ended_at - first
        after_first = max(outcome.completion_tokens - 1, 0)
        return {
            "finish_reason": outcome.finish_reason,
            "stop": outcome.stop,
            "usage": {
                "prompt_tokens": outcome.prompt_tokens,
                "completion_tokens": outcome.completion_tokens,
                "cached_tokens": 0,
            },
            "timing": {
                "queue_ms": (outcome.started_at - self.call.arrived_at) * 1_000,
                "prefill_ms": prefill_s * 1_000,
                "decode_ms": decode_s * 1_000,
                "ttft_ms": (first - self.call.arrived_at) * 1_000,
                "tokens_per_second": after_first / decode_s if decode_s > 0 else 0.0,
                "prefill_tokens_per_second": (
                    outcome.prompt_tokens / prefill_s if prefill_s > 0 else 0.0
                ),
            },
            "seed": self.options.sampling["seed"],
        }


def read_options(fields: Params, model: LoadedModel) -> GenerateOptions:
    """Read everything but the prompt.

    Raises:
        InvalidRequest: A field has a wrong type or range.
    """
    stops = tuple(fields.items("stop", str, STOP_STRINGS_LIMIT, []))
    for index, stop in enumerate(stops):
        if not 0 < len(stop) <= STOP_STRING_CHARS_LIMIT:
            raise InvalidRequest(
                f"stop[{index}] must have 1 to {STOP_STRING_CHARS_LIMIT} characters",
                field=f"stop[{index}]",
            )
    stop_token_ids = tuple(fields.items("stop_token_ids", int, _STOP_IDS_LIMIT, []))
    model.tokenizer.check(list(stop_token_ids), "stop_token_ids")
    return GenerateOptions(
        sampling=read_sampling(fields, model),
        max_tokens=fields.integer("max_tokens", 1, _CONTEXT_LIMIT, None),
        stops=stops,
        stop_token_ids=stop_token_ids,
        ignore_eos=fields.typed("ignore_eos", bool, False),
        logprobs=fields.integer("logprobs", 0, TOP_LOGPROBS_LIMIT, None),
        is_streamed=fields.typed("stream", bool, True),
    )


def _room(model: LoadedModel, prompt: list[int], field: str, options: GenerateOptions) -> int:
    """Return how many tokens may be generated.

    Raises:
        InvalidRequest: The prompt is empty, or leaves no room in the context.
    """
    if not prompt:
        raise InvalidRequest("the prompt has no tokens", field=field)
    wanted = options.max_tokens if options.max_tokens is not None else MAX_TOKENS_DEFAULT
    context = model.verified.context_length
    if context is None:
        return wanted
    if len(prompt) >= context:
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens, the model's context {context}; shorten it",
            field=field,
            prompt_tokens=len(prompt),
            context_length=context,
        )
    return min(wanted, context - len(prompt))
