"""The training loops: the chat model on the corpus, then its draft by distillation.

Promises: the same seed gives the same data in the same order; the loop ends after the minutes
it was given and lowers the learning rates to zero by then. Reports through a callable.
Knows nothing of files; `export.py` writes them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from shutil import which

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from .batches import Batch, RowPacker
from .network import LlamaNetwork, NetworkShape
from .tokenizer import VOCABULARY_SIZE

Report = Callable[[str], None]
Clock = Callable[[], float]
Hidden = Callable[[Tensor], Tensor]
Objective = Callable[[LlamaNetwork, Tensor, Batch], Tensor]

CHAT_SHAPE = NetworkShape(
    VOCABULARY_SIZE, hidden_size=128, intermediate_size=352, layers=6, heads=4
)
DRAFT_SHAPE = NetworkShape(
    VOCABULARY_SIZE, hidden_size=128, intermediate_size=320, layers=1, heads=4
)
MUON_RATE = 0.01  # for matrices; momentum and orthogonal updates, Jordan et al. 2024
ADAM_RATE = 0.004  # for the embedding and the norms
WEIGHT_DECAY = 0.02
WARM_UP_SHARE = 0.02
LONG_ROWS_ONE_IN = 4  # steps; long rows teach to look past much that does not matter
ROW_TOKENS = 256
LONG_ROW_TOKENS = 768
BATCH_TOKENS = 6144
CLIP_NORM = 1.0
REPORT_EVERY_SECONDS = 20.0
COMPILE_FROM_MINUTES = 3.0


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """What one training loop did: optimiser steps, input tokens, last mean loss."""

    steps: int
    tokens: int
    loss: float


def answer_loss(network: LlamaNetwork, hidden: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy over the learnt tokens."""
    logits = network.logits(hidden[batch.learnt])
    return functional.cross_entropy(logits.float(), batch.learnt_targets)


def compiled(network: LlamaNetwork, minutes: float) -> Hidden:
    """Return the network's `hidden`, compiled where the time saved is worth the compiling."""
    can_compile = sys.platform == "linux" and which("g++") is not None
    if minutes < COMPILE_FROM_MINUTES or not can_compile:
        return network.hidden
    fast: Hidden = torch.compile(network.hidden, dynamic=False)
    return fast


def has_fast_bfloat16() -> bool:
    """Say whether this CPU multiplies bfloat16 in hardware; elsewhere it is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def distillation(teacher: LlamaNetwork, teacher_hidden: Hidden) -> Objective:
    """Return the loss KL(teacher || student) over the learnt tokens (Hinton et al. 2015)."""

    def loss(network: LlamaNetwork, hidden: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = teacher.logits(teacher_hidden(batch.inputs)[batch.learnt]).float()
        offered = network.logits(hidden[batch.learnt]).float()
        return functional.kl_div(
            functional.log_softmax(offered, dim=-1),
            functional.log_softmax(wanted, dim=-1),
            log_target=True,
            reduction="batchmean",
        )

    return loss


def rate_at(share: float) -> float:
    """Return the factor of the learning rate when `share` of the time is over."""
    if share < WARM_UP_SHARE:
        return share / WARM_UP_SHARE
    through = min(1.0, (share - WARM_UP_SHARE) / (1.0 - WARM_UP_SHARE))
    return 0.5 * (1.0 + math.cos(math.pi * through))


def _optimisers(network: LlamaNetwork) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed_tokens" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


class Trainer:
    """Runs one loop over packed conversations until its time is over."""

    def __init__(self, network: LlamaNetwork, packer: RowPacker, objective: Objective) -> None:
        self._network = network
        self._packer = packer
        self._objective = objective
        self._optimisers = _optimisers(network)
        self._base_rates = [each.param_groups[0]["lr"] for each in self._optimisers]
        self._is_mixed = has_fast_bfloat16()

    def _next_batch(self, steps: int) -> Batch:
        is_long = steps % LONG_ROWS_ONE_IN == LONG_ROWS_ONE_IN - 1
        length = LONG_ROW_TOKENS if is_long else ROW_TOKENS
        return self._packer.batch(BATCH_TOKENS // length, length)

    def _step(self, hidden: Hidden, batch: Batch, share: float) -> float:
        factor = rate_at(share)
        for optimiser, rate in zip(self._optimisers, self._base_rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=self._is_mixed):
            loss = self._objective(self._network, hidden(batch.inputs), batch)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        return float(loss.item())

    def run(self, minutes: float, report: Report, clock: Clock = time.monotonic) -> LoopFigures:
        """Train for `minutes`; report the smoothed loss and the speed now and then."""
        hidden = compiled(self._network, minutes)
        started = reported = clock()
        steps, tokens, smoothed = 0, 0, 0.0
        while (share := (clock() - started) / (minutes * 60.0)) < 1.0:
            batch = self._next_batch(steps)
            loss = self._step(hidden, batch, share)
            steps, tokens = steps + 1, tokens + batch.inputs.numel()
            smoothed = loss if steps == 1 else 0.97 * smoothed + 0.03 * loss
            if clock() - reported >= REPORT_EVERY_SECONDS:
                reported = clock()
                speed = tokens / (reported - started)
                report(f"{share:4.0%}  step {steps}  loss {smoothed:.4f}  {speed:.0f} tokens/s")
        return LoopFigures(steps, tokens, smoothed)


def train_chat(
    tokenizer: Tokenizer, minutes: float, seed: int, report: Report
) -> tuple[LlamaNetwork, LoopFigures]:
    """Train the chat model from random weights."""
    torch.manual_seed(seed)
    network = LlamaNetwork(CHAT_SHAPE)
    report(f"chat model: {network.parameter_count()} parameters")
    figures = Trainer(network, RowPacker(tokenizer, seed), answer_loss).run(minutes, report)
    return network, figures


def train_draft(
    teacher: LlamaNetwork, tokenizer: Tokenizer, minutes: float, seed: int, report: Report
) -> tuple[LlamaNetwork, LoopFigures]:
    """Train the draft to give the chat model's distribution."""
    torch.manual_seed(seed + 1)
    network = LlamaNetwork(DRAFT_SHAPE)
    report(f"draft model: {network.parameter_count()} parameters")
    packer = RowPacker(tokenizer, seed + 1)
    objective = distillation(teacher, compiled(teacher, minutes))
    figures = Trainer(network, packer, objective).run(minutes, report)
    return network, figures
