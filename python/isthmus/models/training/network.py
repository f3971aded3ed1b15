"""The Llama architecture in torch, small enough to train on two CPU cores.

Promises: parameter names and shapes are those that mlx-lm's `llama` loader reads, so a state
dictionary can be saved as it is; rotary positions use the half-split (Hugging Face) layout.
Knows nothing of tokens' meaning, of optimisers or of files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ROPE_THETA = 10000.0
NORM_EPSILON = 1e-5
INITIAL_DEVIATION = 0.02


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """The sizes of one Llama network; `head_size` is `hidden_size / heads`."""

    vocabulary: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.heads

    def as_dictionary(self) -> dict[str, int]:
        """Return the sizes as plain values, for a checkpoint."""
        return asdict(self)


class RootMeanSquareNorm(nn.Module):  # type: ignore[misc, unused-ignore]
    """Scale each row to unit root mean square, then by a learnt weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, rows: Tensor) -> Tensor:
        return functional.rms_norm(rows, self.weight.shape, self.weight, NORM_EPSILON)


def rotary_tables(length: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine tables of shape (length, head_size) for positions 0..length-1."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(length, dtype=torch.float32), ROPE_THETA**-exponents)
    doubled = torch.cat((angles, angles), dim=-1)
    return doubled.cos(), doubled.sin()


def rotate(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn (batch, heads, length, head_size) by the tables, first half against second half."""
    first, second = values.chunk(2, dim=-1)
    return values * cosine + torch.cat((-second, first), dim=-1) * sine


class SelfAttention(nn.Module):  # type: ignore[misc, unused-ignore]
    """Causal multi-head attention with rotary positions and no biases."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        size = shape.hidden_size
        self.heads = shape.heads
        self.q_proj = nn.Linear(size, size, bias=False)
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size, bias=False)
        self.o_proj = nn.Linear(size, size, bias=False)

    def forward(self, rows: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, size = rows.shape
        split = (batch, length, self.heads, size // self.heads)
        queries = rotate(self.q_proj(rows).view(split).transpose(1, 2), cosine, sine)
        keys = rotate(self.k_proj(rows).view(split).transpose(1, 2), cosine, sine)
        values = self.v_proj(rows).view(split).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            queries.to(values.dtype), keys.to(values.dtype), values, is_causal=True
        )
        joined: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, size))
        return joined


class GatedFeedForward(nn.Module):  # type: ignore[misc, unused-ignore]
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        down: Tensor = self.down_proj(functional.silu(self.gate_proj(rows)) * self.up_proj(rows))
        return down


class DecoderLayer(nn.Module):  # type: ignore[misc, unused-ignore]
    """One pre-norm block: attention, then feed-forward, each added to its input."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.self_attn = SelfAttention(shape)
        self.mlp = GatedFeedForward(shape)
        self.input_layernorm = RootMeanSquareNorm(shape.hidden_size)
        self.post_attention_layernorm = RootMeanSquareNorm(shape.hidden_size)

    def forward(self, rows: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        attended: Tensor = rows + self.self_attn(self.input_layernorm(rows), cosine, sine)
        fed: Tensor = attended + self.mlp(self.post_attention_layernorm(attended))
        return fed


class LlamaBody(nn.Module):  # type: ignore[misc, unused-ignore]
    """Embedding, decoder layers and the final norm; named `model` in the stored weights."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.layers))
        self.norm = RootMeanSquareNorm(shape.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        rows: Tensor = self.embed_tokens(tokens)
        cosine, sine = rotary_tables(tokens.shape[1], self.head_size)
        for layer in self.layers:
            rows = layer(rows, cosine, sine)
        normed: Tensor = self.norm(rows)
        return normed


class LlamaNetwork(nn.Module):  # type: ignore[misc, unused-ignore]
    """A decoder whose output layer is its own embedding (tied), as the stored config says."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = LlamaBody(shape)
        self._initialise()

    def _initialise(self) -> None:
        depth_scale = (2 * self.shape.layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            fan_in_deviation = float(parameter.shape[1]) ** -0.5
            if "embed_tokens" in name:
                nn.init.normal_(parameter, std=INITIAL_DEVIATION)
            else:
                scale = depth_scale if is_residual else 1.0
                nn.init.normal_(parameter, std=fan_in_deviation * scale)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the final hidden rows, (batch, length, hidden_size), of int64 tokens."""
        rows: Tensor = self.model(tokens)
        return rows

    def logits(self, rows: Tensor) -> Tensor:
        """Map hidden rows of any leading shape to vocabulary logits."""
        return functional.linear(rows, self.model.embed_tokens.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(tokens))

    def parameter_count(self) -> int:
        """Return the number of stored values."""
        return sum(parameter.numel() for parameter in self.parameters())
