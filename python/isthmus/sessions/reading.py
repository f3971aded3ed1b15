"""What is kept of a text: found by its chain, held, and read into place as far as it is sound.

What is damaged is put aside and is as if it had never been; what cannot be read is given up; the
rest of the text is evaluated again. Files are read side by side, on threads that touch nothing but
the file and the arrays. Knows not who writes the folder, nor how.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from .catalog import Catalog
from .chain import Chain, TokenIds, shared_tokens
from .checked import BadFile
from .chunkfile import ChunkFormat, Piece
from .layout import Array
from .statefile import State, decode_states
from .tree import Match, Node, shared_with
from .values import Family, Held, Restored

_READERS: Final = 2
"""Threads that read the files of a session: copying and checking take a processor each, and a third
one would take the engine's."""


class Reader:
    """Reads from a folder.

    Args:
        catalog: What is known of the folder.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._threads = ThreadPoolExecutor(_READERS, "isthmus-sessions-read")

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def find(self, family: Family, ids: TokenIds, limit: int) -> Held:
        """Return the longest known beginning of a text, of up to `limit` tokens; it is held until
        it is released."""
        chain, layout = Chain(family.root, ids), family.format.layout
        match = self._catalog.tree.find(chain, limit, layout.has_states)
        if not layout.has_states:
            match = self._look_further(family, chain, match, limit)
        if match.tip is not None:
            match.tip.holders += 1
        return Held(match, chain, family)

    def release(self, held: Held) -> None:
        """Hold it no longer."""
        if held.match.tip is not None:
            held.match.tip.holders -= 1

    def read(self, held: Held, arrays: Sequence[Array]) -> Restored:
        """Read what was found into `arrays`, as far as it is sound, and release it."""
        try:
            return self._read(held, arrays)
        finally:
            self.release(held)

    def _look_further(self, family: Family, chain: Chain, match: Match, limit: int) -> Match:
        """Use a part of what continues a match, if it begins as the text goes on."""
        best = match
        for node in self._catalog.tree.nearest(match, chain):
            if node.ids is None:
                try:
                    node.ids = self._head_ids(family.format, node.piece)
                except (BadFile, OSError):
                    continue
            shared = shared_with(node, chain, limit)
            if node.piece.start + shared > best.tokens:
                best = Match(node, node.piece.start + shared)
        return best

    def _head_ids(self, form: ChunkFormat, piece: Piece) -> TokenIds:
        """Return the tokens that a file says it has; they are checked when all of it is read."""
        length = len(form.header(piece))
        raw = self._catalog.files().read_head(piece, length + 4 * piece.tokens)
        if len(raw) != length + 4 * piece.tokens:
            raise BadFile("it is too short")
        return np.frombuffer(raw, "<u4", offset=length)

    def _read(self, held: Held, arrays: Sequence[Array]) -> Restored:
        tip, chain = held.match.tip, held.chain
        path = [] if tip is None else self._catalog.tree.path(tip)
        good: list[Node] = []
        tokens = read_bytes = 0

        def read(node: Node) -> int | Exception:
            return self._read_piece(held.family.format, node.piece, chain, held.tokens, arrays)

        for node, count in zip(path, self._threads.map(read, path), strict=True):
            if isinstance(count, BadFile):
                self._catalog.put_aside(node)
            elif isinstance(count, Exception):
                self._catalog.give_up(node)
            if isinstance(count, Exception):
                break
            good.append(node)
            tokens, read_bytes = min(node.piece.end, held.tokens), read_bytes + count
        states = None
        if held.family.format.layout.has_states:
            tokens, states = self._read_states(held.family.format, good)
        if good:
            self._catalog.tree.use(good[-1])
            if self._catalog.is_writer:
                self._catalog.files().touch(good[-1].piece)
            self._catalog.counts["restores"] += 1
            self._catalog.counts["restored_bytes"] += read_bytes
        if tokens < held.tokens:
            self._catalog.counts["restore_failures"] += 1
        return Restored(tokens, read_bytes, states)

    def _read_piece(
        self, form: ChunkFormat, piece: Piece, chain: Chain, limit: int, arrays: Sequence[Array]
    ) -> int | Exception:
        """Read a file, up to a token; return its size, or why it cannot be used. On any thread."""
        wanted = min(piece.end, limit) - piece.start
        places = form.places(piece, wanted, arrays)
        size_bytes = form.size(piece)
        raw = np.empty(size_bytes if places is None else form.head_size(piece), np.uint8)
        try:
            self._catalog.files().read_piece(piece, raw, *(places or ()))
            ids = form.check_parts(piece, raw, places or ())
            if shared_tokens(ids, chain.ids[piece.start : piece.start + wanted]) < wanted:
                return BadFile("it has other tokens")
            if places is None:
                form.decode(piece, raw, wanted, arrays)
        except (BadFile, OSError) as error:
            return error
        return size_bytes

    def _read_states(
        self, form: ChunkFormat, good: Sequence[Node]
    ) -> tuple[int, list[State] | None]:
        """Return the last states that can be read, and how many tokens they follow."""
        for node in filter(lambda node: node.has_state, reversed(good)):
            try:
                raw = self._catalog.files().read_state(node.piece.key, node.state_bytes)
                return node.piece.end, decode_states(node.piece.key, form.layout, raw)
            except BadFile:
                self._catalog.counts["corrupt_files"] += 1
                self._catalog.drop_state(node)
            except FileNotFoundError:
                self._catalog.drop_state(node)
            except OSError:
                continue
        return 0, None
