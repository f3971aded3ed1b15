"""Into which pieces a text is cut that is to be written: few files, and little written twice.

A piece ends with its chunk, where a state is, or with the text. A chunk that came in many short
turns is written anew as one. Pure planning: no file, and nothing of it is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from .chain import CHUNK_TOKENS, Chain, boundary_before
from .chunkfile import Piece
from .tree import Node, Tree
from .values import Evaluated

PIECES_OF_A_CHUNK: Final = 4
"""Pieces of a chunk after which some are written anew as one, so that short turns leave few files.
Turns of 8 tokens write each of them 2.6 times, on average; those of 16, 1.9 times."""


def missing_pieces(
    tree: Tree, chain: Chain, at: Node | None, evaluated: Evaluated
) -> Iterable[Piece]:
    """Yield the pieces to write after a node, in order, up to the end of the text: they end with
    chunks, and where there is a state."""
    start, total = 0 if at is None else at.piece.end, len(evaluated.ids)
    is_inside = boundary_before(start) < start < total
    pieces = tree.pieces_in_chunk(at)
    if is_inside and len(pieces) >= PIECES_OF_A_CHUNK:
        start = _start_anew(pieces, min(boundary_before(start) + CHUNK_TOKENS, total))
    while start < total:
        marks = (end for end, _ in evaluated.states if end > start)
        end = min(boundary_before(start) + CHUNK_TOKENS, total, *marks)
        yield Piece(chain.key(end), chain.key(start), start, end)
        start = end


def _start_anew(pieces: Sequence[Node], end: int) -> int:
    """Return from where on a chunk is written anew, up to `end`: where each file that goes costs
    least.

    Args:
        pieces: Of the chunk, the last one first.
    """
    starts = [node.piece.start for node in pieces]
    costs = [(end - start) / goes for goes, start in enumerate(starts, 1)]
    return starts[costs.index(min(costs))]
