"""KV caches from the outside: what layers they have, their numbers, and caches made of numbers.

mlx-lm's caches are read and made here, and nowhere else. Numbers are handed out as numpy views of
arrays that mlx does not write any more: whoever goes on with a cache while a view of it is alive
writes into a copy, made by mlx. A kind of cache that is not known here has no layout, and is kept
in memory only. Called on the engine thread only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from ..limits import CACHE_ROOM_TOKENS, FIRST_ROOM_TOKENS
from ..sessions.chain import TokenIds
from ..sessions.layout import DTYPES, Array, Layout, StateLayer, TokenLayer
from ..sessions.statefile import STATE_DTYPES, State
from ..sessions.values import Evaluated
from .spread import processor_streams

Checkpoint = tuple[int, list[Any]]
"""The state layers of a cache as they were after so many tokens."""

_STEP_BYTES: Final = 32 * 1024 * 1024
"""Memory that is made in one step of the engine, between those of generations: 30 ms where each
page has to be mapped."""


def leaves(cache: Sequence[Any]) -> list[Any]:
    """Return the caches that others are lists of, in order."""
    found: list[Any] = []
    for entry in cache:
        found += leaves(entry.caches) if type(entry) is CacheList else [entry]
    return found


def layout_of(network: Any) -> Layout | None:
    """Return what a model's caches look like; None when a kind of them is unknown, or they cannot
    be looked at."""
    try:
        cache = make_prompt_cache(network)
        # Only the shape of the computation is made, nothing is evaluated.
        network(mx.array([[0]]), cache=cache)
        layers = [_layer_of(leaf) for leaf in leaves(cache)]
    except Exception:  # of a model's own code, which need not be made for this
        return None
    known = [layer for layer in layers if layer is not None]
    return Layout(tuple(known)) if known and len(known) == len(layers) else None


def _layer_of(leaf: Any) -> TokenLayer | StateLayer | None:
    if type(leaf) is KVCache and leaf.keys is not None:
        (_, heads, _, key_size), dtype = leaf.keys.shape, _name(leaf.keys)
        if dtype not in DTYPES or _name(leaf.values) != dtype or leaf.keys.shape[0] != 1:
            return None
        return TokenLayer(heads, key_size, leaf.values.shape[3], dtype)
    if type(leaf) is RotatingKVCache and leaf.keys is not None:
        arrays = tuple(
            (_name(array), (1, array.shape[1], None, array.shape[3]))
            for array in (leaf.keys, leaf.values)
        )
        return _state_layer(f"rotating {leaf.keep} {leaf.max_size}", arrays)
    if type(leaf) is ArraysCache and _is_plain(leaf):
        return _state_layer("arrays", tuple((_name(a), tuple(a.shape)) for a in leaf.cache))
    return None


def _state_layer(
    kind: str, arrays: tuple[tuple[str, tuple[int | None, ...]], ...]
) -> StateLayer | None:
    return StateLayer(kind, arrays) if all(name in STATE_DTYPES for name, _ in arrays) else None


def _is_plain(leaf: Any) -> bool:
    """Whether a state has all of its arrays, and none of a batch."""
    whole = all(array is not None for array in leaf.cache)
    return whole and leaf.left_padding is None and leaf.lengths is None


def evaluated(
    ids: TokenIds, cache: Sequence[Any], layout: Layout, checkpoints: Sequence[Checkpoint]
) -> Evaluated:
    """Return the numbers of a cache that holds these tokens, to be saved.

    Raises:
        ValueError: It holds another number of tokens, or has no such layout.
    """
    arrays: list[Array] = []
    for leaf, layer in zip(leaves(cache), layout.layers, strict=True):
        if isinstance(layer, TokenLayer):
            if type(leaf) is not KVCache or leaf.offset != len(ids):
                raise ValueError(f"a {type(leaf).__name__} does not hold {len(ids)} tokens")
            arrays += [_view(leaf.keys)[0], _view(leaf.values)[0]]
    marks = [*checkpoints, (len(ids), state_leaves(cache))] if layout.has_states else []
    states = tuple((tokens, [_state_of(leaf) for leaf in held]) for tokens, held in marks)
    return Evaluated(ids, arrays, states)


def state_leaves(cache: Sequence[Any]) -> list[Any]:
    """Return the caches that hold a state only."""
    return [leaf for leaf in leaves(cache) if type(leaf) is not KVCache]


def copy_states(cache: Sequence[Any]) -> list[Any]:
    """Return the state layers as they are now; arrays are shared, nothing is copied."""
    return [copy.deepcopy(leaf) for leaf in state_leaves(cache)]


def _state_of(leaf: Any) -> State:
    if type(leaf) is RotatingKVCache:
        arrays = tuple((_name(array), _view(array)) for array in (leaf.keys, leaf.values))
        return State(arrays, (leaf.offset, leaf.keep, leaf.max_size, leaf._idx))
    if type(leaf) is ArraysCache and _is_plain(leaf):
        return State(tuple((_name(array), _view(array)) for array in leaf.cache))
    raise ValueError(f"a {type(leaf).__name__} cannot be saved")


def _view(array: mx.array) -> Array:
    """Return the numbers of an array, which mlx will not write into while the view is alive."""
    # Another handle to the same memory: mlx writes in place only into what has a single one.
    alias = array.view(mx.uint16) if array.dtype == mx.bfloat16 else mx.array(array)
    view: Array = np.array(alias, copy=False)
    return view


def _name(array: mx.array) -> str:
    return str(array.dtype).rpartition(".")[2]


class NewCache:
    """Memory for a cache that is read from disk, made in steps.

    Args:
        network: The mlx-lm model.
        layout: What its caches look like.
        tokens: How many there is room for.
    """

    def __init__(self, network: Any, layout: Layout, tokens: int) -> None:
        self.arrays: list[Array] = []
        """Keys and values of each token layer, in turn, [heads, tokens, size]; to be filled."""
        self._network = network
        self._layout = layout
        self._made: list[mx.array] = []
        self._left = [
            ((1, layer.heads, tokens, size), layer.dtype)
            for layer in layout.token_layers
            for size in (layer.key_size, layer.value_size)
        ]

    def step(self) -> bool:
        """Make some arrays; return whether all are made."""
        made: list[mx.array] = []
        # Mapping pages takes longer than filling them; each stream has a processor.
        is_on_cpu = mx.default_device() == mx.Device(mx.cpu)
        streams = processor_streams() if is_on_cpu else (generation_stream,)
        while self._left and sum(array.nbytes for array in made) < _STEP_BYTES:
            shape, dtype = self._left.pop(0)
            kind = mx.uint16 if dtype == "bfloat16" else getattr(mx, dtype)
            with mx.stream(streams[len(made) % len(streams)]):
                made.append(mx.zeros(shape, kind))
        mx.eval(made)
        for array in made:
            view = np.array(array, copy=False)[0]
            if not (view.flags.writeable and view.flags.c_contiguous):
                raise ValueError("mlx gives no writable memory")
            self._made.append(array)
            self.arrays.append(view)
        return not self._left

    def finish(self, tokens: int, states: Sequence[State] | None) -> list[Any]:
        """Return the cache, once its arrays are filled with so many tokens.

        Raises:
            ValueError: The states are not those after so many tokens.
        """
        self.arrays.clear()
        waiting = list(states or ())
        cache: list[Any] = make_prompt_cache(self._network)
        made = self._made
        for leaf, layer in zip(leaves(cache), self._layout.layers, strict=True):
            if isinstance(layer, TokenLayer):
                leaf.keys, leaf.values = _typed(made.pop(0), layer), _typed(made.pop(0), layer)
                leaf.offset = tokens
            else:
                _put_state(leaf, layer, waiting.pop(0), tokens)
        return cache


def _typed(array: mx.array, layer: TokenLayer) -> mx.array:
    return array.view(mx.bfloat16) if layer.dtype == "bfloat16" else array


def _put_state(leaf: Any, layer: StateLayer, state: State, tokens: int) -> None:
    arrays = [_array(entry) for entry in state.arrays]
    if any(array is None for array in arrays):
        raise ValueError("a state lacks an array")
    if type(leaf) is RotatingKVCache:
        (keys, values), (offset, keep, max_size, index) = arrays, state.integers
        length = keys.shape[2]
        is_same = (keep, max_size) == (leaf.keep, leaf.max_size) and offset == tokens
        if not is_same or values.shape[2] != length or not 0 <= index <= length:
            raise ValueError("a rotating window is not the one after these tokens")
        leaf.state = keys, values, offset, keep, max_size, index
    else:
        leaf.cache = arrays


def _array(entry: tuple[str, Array] | None) -> Any:
    if entry is None:
        return None
    dtype, values = entry
    array = mx.array(values)
    return array.view(mx.bfloat16) if dtype == "bfloat16" else array


def make_room(cache: Sequence[Any], more: int, expected: int, layout: Layout | None = None) -> None:
    """Let the next `more` tokens of a prompt fit into a cache whose prompt is `expected` long.

    mlx-lm's caches grow by what comes, and are copied each time; these begin as large as the
    prompt, up to a size, and double.

    Args:
        layout: What the cache looks like, for one that is empty yet.
    """
    layers = layout.layers if layout is not None else ()
    for leaf, layer in zip_longest(leaves(cache), layers):
        if type(leaf) is not KVCache:
            continue
        if leaf.keys is not None:
            _grow(leaf, more, expected)
        elif isinstance(layer, TokenLayer) and expected > more:
            room, kind = min(expected, FIRST_ROOM_TOKENS) + CACHE_ROOM_TOKENS, layer.dtype
            leaf.keys, leaf.values = (
                mx.zeros((1, layer.heads, room, size), getattr(mx, kind))
                for size in (layer.key_size, layer.value_size)
            )


def _grow(leaf: Any, more: int, expected: int) -> None:
    held, room = leaf.offset, leaf.keys.shape[2]
    if held + more > room:
        wanted = min(max(2 * room, held + more), max(expected, held + more))
        grown = wanted + CACHE_ROOM_TOKENS - held
        leaf.keys, leaf.values = (_grown(array, held, grown) for array in (leaf.keys, leaf.values))


def _grown(array: mx.array, held: int, more: int) -> mx.array:
    shape = (*array.shape[:2], more, array.shape[3])
    return mx.concatenate([array[..., :held, :], mx.zeros(shape, array.dtype)], axis=2)


def trim_to(cache: Sequence[Any], tokens: int) -> None:
    """Cut the token layers of a cache back to its first tokens."""
    for leaf in leaves(cache):
        if type(leaf) is KVCache:
            leaf.trim(leaf.offset - tokens)
