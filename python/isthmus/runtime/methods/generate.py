"""`generate`: from a request's params to a job of the engine.

Every option is read, checked and passed on, or refused by name: what cannot be done for a model (a
draft model with another vocabulary, a format that cannot be enforced) is an error, never ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...engine.job import Decoder, Job, Steps, TextOutput
from ...engine.kv_memory import Ownership
from ...errors import Cancelled, InvalidRequest, IsthmusError, own_copy
from ...models.load import LoadedModel
from ...text.compatibility import compare
from ...text.stream import TextStream
from ...text.tool_calls import ToolCallStream, ToolText, supports_tool_calls
from ..generate_options import GenerateOptions, SpeculationOptions, read_options, read_room
from ..generation import Generation
from ..params import Params
from ..prompts import prompt_ids
from ..requests import Call
from ..response_format import ResponseFormat, check_output, compile_format
from ..router import Router
from ..services import Services

if TYPE_CHECKING:
    from ...sessions.known import Place
    from ...sessions.turn import Turn

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

GRAMMARS_KEPT: Final = 64
"""Compiled response formats that a model keeps."""


def register(router: Router, services: Services) -> None:
    """Add the method."""
    router.register("generate", run=GenerateMethod(services).run)


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
        place = None
        if options.session is not None:
            place = self._services.sessions.manager.place(options.session, lambda: call.is_settled)
        return self._generate_in_turn(generation, model, fields, place)

    async def _generate_in_turn(
        self, generation: Generation, model: LoadedModel, fields: Params, place: Place | None
    ) -> None:
        try:
            await self._generate(generation, model, fields, place)
        finally:
            if place is not None:
                place.leave()

    async def _generate(
        self, generation: Generation, model: LoadedModel, fields: Params, place: Place | None
    ) -> None:
        options = generation.options
        field = next((name for name in ("ids", "messages") if name in fields), "prompt")
        prompt = await prompt_ids(self._services.text, model, fields)
        fields.done()
        draft = await self._draft_model(model, options.speculation)
        grammar = await self._grammar(model, options)
        if generation.call.is_settled:
            return
        # They may have been unloaded while the prompt was made.
        self._services.models.get(model.handle)
        if draft is not None:
            self._services.models.get(draft.handle)
        max_tokens = read_room(model, prompt, field, options)
        guard = self._services.resilience.of(model.handle, model.prior_failures).generate
        try:
            with model.lease(), (draft or model).lease():
                async with self._turn(model, generation, prompt, place) as turn:
                    await guard.call(
                        lambda: self._attempt(
                            self._job(model, draft, grammar, prompt, max_tokens, generation, turn),
                            generation,
                        ),
                        deadline=generation.call.deadline_at,
                        measure=_first_token_s,
                    )
        except IsthmusError as error:
            if not generation.call.is_settled:
                generation.fail(own_copy(error))
        if generation.unchecked is not None:
            await self._check(generation)

    @contextlib.asynccontextmanager
    async def _turn(
        self,
        model: LoadedModel,
        generation: Generation,
        prompt: list[int],
        place: Place | None,
    ) -> AsyncIterator[Turn | None]:
        """Have the session of a generation, with what is on disk of its prompt read; None without
        a session.

        Raises:
            Cancelled: The call was settled meanwhile.
        """
        if place is None:
            yield None
            return
        sessions = self._services.sessions
        known = await sessions.model(model)
        async with sessions.manager.turn(place, known) as turn:
            if not generation.call.is_settled:
                await turn.prepare(prompt)
            if generation.call.is_settled:
                raise Cancelled("the request was settled before it began", phase="queue")
            generation.load_ms = turn.load_ms
            yield turn

    async def _attempt(self, job: Job, generation: Generation) -> Job:
        """Run a job to its end, which settles the call unless there may be another attempt.

        Raises:
            IsthmusError: How it ended, if not well.
        """
        if generation.call.is_settled:
            raise Cancelled("the request was settled before it was tried again", phase="queue")
        try:
            self._services.engine.submit(job)
        except IsthmusError:
            if job.on_left is not None:
                job.on_left(None)
            raise
        generation.begin(job)
        await generation.done.wait()
        if generation.failure is not None:
            raise generation.failure
        return job

    async def _check(self, generation: Generation) -> None:
        """Settle a complete output, once it was compared with its format."""
        wanted, text = generation.options.response_format, generation.text
        outcome = generation.unchecked
        assert wanted is not None and outcome is not None
        try:
            await self._services.text.pool.run(lambda: check_output(wanted, text))
        except IsthmusError as error:
            if not generation.call.is_settled:
                generation.fail(own_copy(error))
        else:
            if not generation.call.is_settled:
                generation.settle(outcome)

    async def _draft_model(
        self, model: LoadedModel, options: SpeculationOptions | None
    ) -> LoadedModel | None:
        """Return the model that drafts, if one does.

        Raises:
            ModelNotLoaded: Its handle is unknown.
            InvalidRequest: Its tokens are not those of the target.
        """
        if options is None or options.draft_model is None:
            return None
        draft = self._services.models.get(options.draft_model)
        found = await _once(
            model.operation("compatible", dict),
            draft.handle,
            lambda: self._services.text.pool.run(lambda: compare(model.tokenizer, draft.tokenizer)),
        )
        if not found.is_compatible:
            raise InvalidRequest(
                f"{draft.handle} cannot draft for {model.handle}: {found.differences[0]}",
                field="speculation.draft_model",
                differences=list(found.differences),
            )
        return draft

    async def _grammar(self, model: LoadedModel, options: GenerateOptions) -> Any:
        """Return what the output must match, compiled; None for any text."""
        wanted = options.response_format
        if wanted is None:
            return None
        pool = self._services.text.pool
        grammars: dict[ResponseFormat, Any] = model.operation("grammars", dict)
        while wanted not in grammars and len(grammars) >= GRAMMARS_KEPT:
            del grammars[next(iter(grammars))]
        return await _once(grammars, wanted, lambda: pool.run(lambda: _compile(model, wanted)))

    def _job(
        self,
        model: LoadedModel,
        draft: LoadedModel | None,
        grammar: Any,
        prompt: list[int],
        max_tokens: int,
        generation: Generation,
        turn: Turn | None,
    ) -> Job:
        options, settings = generation.options, self._services.settings
        memory = self._services.memory
        networks = model.network, None if draft is None else draft.network
        is_fp32 = model.verified.quantization is None and model.verified.dtype == "float32"

        def open_job() -> tuple[Decoder, Steps, TextOutput]:
            from ...engine.decoder import Decoder as ModelDecoder
            from ...engine.plan import Plan
            from ...engine.sampling import SamplingOptions

            decoder = model.operation(
                "decoder",
                lambda: ModelDecoder(
                    networks[0],
                    model.vocab_size,
                    is_fp32,
                    settings.prefill_chunk_tokens,
                    settings.prompt_cache_bytes,
                    memory,
                ),
            )
            plan = Plan(
                prompt,
                SamplingOptions(**options.sampling),
                max_tokens,
                None if grammar is None else grammar.start(),
                options.may_batch,
                options.may_reuse,
                *(() if turn is None else (_ownership(turn), turn.restored)),
            )
            steps = decoder.open(plan, _speculation(model, draft, networks[1], options))
            return decoder, steps, _text_output(model, options)

        def describe(logits: Any, token: int) -> dict[str, Any]:
            from ...engine import sampling

            return sampling.describe(logits, token, options.logprobs or 0)

        # What is constrained must be able to end.
        has_ends = not options.ignore_eos or grammar is not None
        ends = model.tokenizer.end_tokens if has_ends else frozenset()
        return Job(
            prompt=prompt,
            max_tokens=max_tokens,
            end_tokens=ends | frozenset(options.stop_token_ids),
            open=open_job,
            describe=None if options.logprobs is None else describe,
            listener=generation,
            granted=generation.granted,
            model=model.handle,
            priority=options.priority,
            on_left=None if turn is None else turn.begin(),
        )


async def _once(
    kept: dict[K, asyncio.Future[T]], key: K, begin: Callable[[], asyncio.Future[T]]
) -> T:
    """Return what is computed once for all who ask for `key`; a failure is kept for nobody else."""
    if key not in kept:
        kept[key] = begin()
    computing = kept[key]
    try:
        return await asyncio.shield(computing)
    except Exception as error:
        if kept.get(key) is computing:
            del kept[key]
        if isinstance(error, IsthmusError):
            raise own_copy(error) from None
        raise


def _ownership(turn: Turn) -> Ownership:
    """Return whose the KV cache of a session's generation is."""
    session = turn.session
    return Ownership(session.hot_scope, session.record.name, session.record.pin)


def _first_token_s(job: Job) -> float:
    """Return how long a job ran until its first token; what it waited before says nothing of it."""
    return max(job.first_token_at - job.started_at, 0.0)


def _compile(model: LoadedModel, wanted: Any) -> Any:
    from ...engine.constraint import read_vocabulary

    vocabulary = model.operation(
        "vocabulary",
        lambda: read_vocabulary(
            model.tokenizer.wrapper, model.vocab_size, model.tokenizer.end_tokens
        ),
    )
    return compile_format(wanted, vocabulary)


def _text_output(model: LoadedModel, options: GenerateOptions) -> TextOutput:
    """Return what makes text of the tokens, without tool calls where there may be any."""
    wrapper = model.tokenizer.wrapper
    text = TextStream(wrapper.detokenizer, options.stops)
    is_free = options.response_format is None
    if options.tools is None or not is_free or not supports_tool_calls(wrapper):
        return text
    return ToolText(text, ToolCallStream(wrapper, options.tools))


def _speculation(
    model: LoadedModel, draft: LoadedModel | None, network: Any, options: GenerateOptions
) -> Any:
    """Return how tokens are drafted, on the engine thread."""
    from ...engine.speculate import Speculation
    from ...engine.speculation import SpeculationCosts

    wanted = options.speculation
    if wanted is None:
        return None
    costs = model.operation(("costs", wanted.draft_model), SpeculationCosts)
    return Speculation(network, 0 if draft is None else draft.vocab_size, costs, wanted.limit)
