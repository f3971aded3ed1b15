"""What was evaluated is written, as far as it is not there, and a session ends there.

A file at a time, yielding between two, so that readers need not wait for a save. Nothing here
raises for what is wrong with the disk: it is told in the outcome, and counted. Knows not into which
pieces a text is cut (`pieces.py`), nor whether they may be written (`write_access.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Final

import numpy as np

from .catalog import Catalog
from .chain import Chain
from .checked import Bytes
from .chunkfile import Piece
from .pieces import missing_pieces
from .record import SessionRecord
from .statefile import encode_states
from .tree import Node
from .values import Evaluated, Family, Saved
from .write_access import NotSaved, WriteAccess

_SCRATCH_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Largest buffer that is kept for the next file: fresh memory costs more than reading."""


class Writer:
    """Writes into a folder.

    Args:
        catalog: What is known of the folder.
        access: Whether it may be written.
    """

    def __init__(self, catalog: Catalog, access: WriteAccess) -> None:
        self._catalog = catalog
        self._access = access
        self._scratch: Bytes = np.empty(0, np.uint8)

    def save(
        self, family: Family, evaluated: Evaluated, session: SessionRecord | None
    ) -> Generator[None, None, Saved]:
        """Write what is not there yet, and have a session end there; yields between files."""
        written, reason, at = 0, None, _Place()
        catalog, chain = self._catalog, Chain(family.root, evaluated.ids)
        try:
            try:
                self._access.become_writer()
                at.move(catalog.tree.find(chain, len(chain)).tip)
                for piece in missing_pieces(catalog.tree, chain, at.node, evaluated):
                    written += self._write_piece(family, piece, evaluated)
                    at.move(catalog.tree.nodes[piece.key])
                    yield
                written += self._write_states(chain, evaluated)
                catalog.counts["saves"] += 1
            except NotSaved as error:
                reason = str(error)
                catalog.counts["save_failures"] += 1
            catalog.counts["saved_bytes"] += written
            if not catalog.is_writer:
                return Saved(0, written, reason)
            if session is not None:
                catalog.put(replace(session, root=family.root.hex(), tip=at.tip, tokens=at.tokens))
            return Saved(at.tokens, written, reason)
        finally:
            at.move(None)

    def _write_piece(self, family: Family, piece: Piece, evaluated: Evaluated) -> int:
        """Write a piece that is not there; return how many bytes were written.

        Raises:
            NotSaved: It cannot be written.
        """
        there = self._catalog.tree.nodes.get(piece.key)
        if there is not None and there.piece == piece:  # what came before it was lost
            return 0
        size_bytes = family.format.size(piece)
        self._access.make_room(size_bytes)
        raw = self._buffer(size_bytes)
        ids = evaluated.ids[piece.start : piece.end]
        try:
            family.format.encode(piece, ids, evaluated.arrays, raw)
        except ValueError as error:
            raise NotSaved(f"it cannot be written as {family.format.form}: {error}") from None
        with self._access.writing():
            self._catalog.files().write_piece(piece, raw)
        self._catalog.take_in(Node(piece, size_bytes, ids=ids.copy()))
        return size_bytes

    def _write_states(self, chain: Chain, evaluated: Evaluated) -> int:
        written = 0
        for end, states in evaluated.states:
            node = self._catalog.tree.nodes.get(chain.key(end))
            if node is None or node.has_state:
                continue
            raw = encode_states(node.piece.key, states)
            self._access.make_room(len(raw))
            with self._access.writing():
                self._catalog.files().write_state(node.piece.key, raw)
            self._catalog.tree.set_state(node, len(raw))
            written += len(raw)
        return written

    def _buffer(self, size_bytes: int) -> Bytes:
        """Return memory for a file; the same each time where that is not too much to keep."""
        if size_bytes > _SCRATCH_KEPT_BYTES:
            return np.empty(size_bytes, np.uint8)
        if len(self._scratch) < size_bytes:
            self._scratch = np.empty(size_bytes, np.uint8)
        return self._scratch[:size_bytes]


class _Place:
    """How far a save is; it holds the node there."""

    def __init__(self) -> None:
        self.node: Node | None = None

    @property
    def tip(self) -> str:
        return "" if self.node is None else self.node.piece.key.hex()

    @property
    def tokens(self) -> int:
        return 0 if self.node is None else self.node.piece.end

    def move(self, node: Node | None) -> None:
        """Hold another node, and this one no longer."""
        if node is not None:
            node.holders += 1
        if self.node is not None:
            self.node.holders -= 1
        self.node = node
