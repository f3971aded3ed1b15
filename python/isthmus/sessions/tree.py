"""Which pieces there are on disk, how they hang together, and which may go.

    root ── [0,256) ── [256,512) ── [512,700)           a node is a file: what it adds to its parent
                 └──── [256,410) ── [410,512) ── …       two conversations that part at 256

A node whose parent is missing stays: it is of use again when somebody writes the parent. What may
go are leaves, the least recently used first, and never one that a reader holds or that a pinned
session ends with; what lies before such a node has a child, and stays with it. Pure bookkeeping: no
file, no clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .chain import Chain, TokenIds, boundary_before, shared_tokens
from .chunkfile import Piece

_LOOKED_INTO = 16
"""Pieces whose tokens are compared where none continues a text as a whole: the last used ones."""


@dataclass(slots=True, eq=False)
class Node:
    """A piece on disk.

    Attributes:
        size_bytes: Of its file, and of its state's.
        used: When it was used last: a count of uses, not a time.
        holders: Readers and writers that need it now.
        state_bytes: Of the state after its last token; 0 when that is not kept.
        ids: Its tokens, once they were read.
    """

    piece: Piece
    size_bytes: int
    used: int = 0
    holders: int = 0
    state_bytes: int = 0
    ids: TokenIds | None = field(default=None, repr=False)

    @property
    def has_state(self) -> bool:
        """Whether the state after its last token is kept, too."""
        return self.state_bytes > 0

    def follows(self, parent: Node | None) -> bool:
        """Whether it begins where another node ends, None being the beginning of all."""
        return self.piece.start == (0 if parent is None else parent.piece.end)


@dataclass(frozen=True, slots=True)
class Match:
    """The longest beginning that is known.

    Attributes:
        tip: The last node of it; None for nothing.
        tokens: Its length: the tip may be used in part.
    """

    tip: Node | None
    tokens: int


NOTHING = Match(None, 0)


class Tree:
    """All nodes."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, Node] = {}
        self.tips: dict[bytes, set[str]] = {}
        """The sessions that end with a node, or inside it, by its key."""
        self.pinned: Counter[bytes] = Counter()
        """Of them, those that are pinned."""
        self.size_bytes = 0
        self._children: dict[bytes, dict[bytes, Node]] = {}
        self._uses = itertools.count(1)

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, node: Node) -> None:
        """Take in a node; one with the same key gives way."""
        self.remove(node.piece.key)
        self.nodes[node.piece.key] = node
        self._children.setdefault(node.piece.parent, {})[node.piece.key] = node
        self.size_bytes += node.size_bytes
        self.use(node)

    def remove(self, key: bytes) -> Node | None:
        """Forget a node; return it, if there was one."""
        node = self.nodes.pop(key, None)
        if node is None:
            return None
        siblings = self._children[node.piece.parent]
        del siblings[key]
        if not siblings:
            del self._children[node.piece.parent]
        self.size_bytes -= node.size_bytes
        parent = self.nodes.get(node.piece.parent)
        if parent is not None:
            parent.used = max(parent.used, node.used)
        return node

    def use(self, node: Node) -> None:
        """Take note that a node was used."""
        node.used = next(self._uses)

    def set_state(self, node: Node, state_bytes: int) -> None:
        """Take note of the size of a node's state."""
        self.size_bytes += state_bytes - node.state_bytes
        node.size_bytes += state_bytes - node.state_bytes
        node.state_bytes = state_bytes

    def children(self, key: bytes) -> list[Node]:
        """Return what continues a text."""
        return list(self._children.get(key, {}).values())

    def path(self, node: Node) -> list[Node]:
        """Return the nodes from the first to this one; empty when one of them is missing."""
        found = [node]
        while found[-1].piece.start > 0:
            parent = self.nodes.get(found[-1].piece.parent)
            if parent is None or not found[-1].follows(parent):
                return []
            found.append(parent)
        return found[::-1]

    def find(self, chain: Chain, limit: int, needs_state: bool = False) -> Match:
        """Return the longest known beginning of a text that ends where a node does.

        Args:
            limit: Its longest length.
            needs_state: Whether only nodes with a state will do.
        """
        best = NOTHING
        waiting: list[tuple[bytes, Node | None]] = [(chain.root, None)]
        while waiting:
            key, node = waiting.pop()
            if node is not None and (node.has_state or not needs_state):
                best = max(best, Match(node, node.piece.end), key=_by_length)
            for child_key, child in self._children.get(key, {}).items():
                end = child.piece.end
                if end <= limit and child.follows(node) and chain.key(end) == child_key:
                    waiting.append((child_key, child))
        return best

    def nearest(self, match: Match, chain: Chain) -> list[Node]:
        """Return what continues a match, but is not known to continue the text: the last used."""
        key = chain.root if match.tip is None else match.tip.piece.key
        found = sorted(self.children(key), key=lambda node: -node.used)
        return found[:_LOOKED_INTO]

    def pieces_in_chunk(self, node: Node | None) -> list[Node]:
        """Return the pieces of the chunk that a node ends inside of, or completes: the last one
        first."""
        found: list[Node] = []
        while node is not None:
            found.append(node)
            if node.piece.start == boundary_before(node.piece.start):
                break
            parent = self.nodes.get(node.piece.parent)
            node = parent if parent is not None and node.follows(parent) else None
        return found

    def is_free(self, node: Node) -> bool:
        """Whether a node may go: it is a leaf that nobody needs now and that is not pinned."""
        key = node.piece.key
        return not (node.holders or self.pinned[key] or key in self._children)

    def to_evict(self, size_bytes: int) -> Iterator[Node]:
        """Yield nodes to remove, the least recently used leaves first, until so many bytes are
        free; each is to be removed before the next one is asked for."""
        leaves = [(node.used, key) for key, node in self.nodes.items() if self.is_free(node)]
        heapq.heapify(leaves)
        while size_bytes > 0 and leaves:
            node = self.nodes[heapq.heappop(leaves)[1]]
            yield node
            size_bytes -= node.size_bytes
            parent = self.nodes.get(node.piece.parent)
            if parent is not None and self.is_free(parent):
                heapq.heappush(leaves, (parent.used, node.piece.parent))

    def exclusive(self, tip: bytes | None) -> Iterator[Node]:
        """Yield what nobody has besides a session that ended at `tip`, from there backwards; each
        is to be removed before the next one is asked for."""
        node = None if tip is None else self.nodes.get(tip)
        while node is not None and self.is_free(node) and node.piece.key not in self.tips:
            yield node
            node = self.nodes.get(node.piece.parent)


def _by_length(match: Match) -> int:
    return match.tokens


def shared_with(node: Node, chain: Chain, limit: int) -> int:
    """Return how many of a node's tokens, which were read, the text goes on with."""
    assert node.ids is not None
    return shared_tokens(node.ids, chain.ids[node.piece.start : min(node.piece.end, limit)])
