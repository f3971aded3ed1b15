"""Whether a file may be written: the folder is this process's, and there is room; or why not.

Every reason that a save tells its caller is made here or passes here as `NotSaved`; none of them is
an error of the runtime's. Knows not what is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Final

from .catalog import NO_DIRECTORY, Catalog
from .opening import Opener

_FREE_FOR_WRITE: Final = 1.2
"""How much of the size of a file must be free for it, at least."""

_READ_ONLY: Final = "another runtime writes the session directory; give this one its own"
_VANISHED: Final = "the session directory has vanished; it is made again"


class NotSaved(Exception):
    """Why writing stops."""


class WriteAccess:
    """Leave to write into the folder.

    Args:
        catalog: What is known of the folder.
        opener: What opens it again, when that is needed.
    """

    def __init__(self, catalog: Catalog, opener: Opener) -> None:
        self._catalog = catalog
        self._opener = opener

    def become_writer(self) -> None:
        """Write from now on, if nobody else does.

        Raises:
            NotSaved: Somebody does, or there is no folder.
        """
        catalog = self._catalog
        if catalog.directory is None:
            raise NotSaved(NO_DIRECTORY)
        if catalog.is_writer and not catalog.directory.is_locked():
            catalog.lose()
            raise NotSaved(_VANISHED)
        if not catalog.is_writer:
            self._opener.open()
        if catalog.mode == "reader":
            raise NotSaved(_READ_ONLY)
        if catalog.mode == "memory":
            raise NotSaved(f"the session directory {catalog.directory.path} cannot be written")

    def make_room(self, size_bytes: int) -> None:
        """Evict until a file fits into the quota and onto the disk.

        Raises:
            NotSaved: It does not fit.
        """
        catalog, options = self._catalog, self._catalog.options
        catalog.evict(catalog.used_bytes + size_bytes - options.quota_bytes)
        if catalog.used_bytes + size_bytes > options.quota_bytes:
            raise NotSaved(
                f"the quota of {options.quota_bytes} bytes is taken by what is in use or "
                "pinned; raise --session-disk-bytes, or delete sessions"
            )
        with self.writing():
            wanted = max(options.free_bytes + size_bytes, int(_FREE_FOR_WRITE * size_bytes))
            free = catalog.files().free_bytes()
            if free < wanted <= free + catalog.used_bytes:
                catalog.evict(wanted - free)
                free = catalog.files().free_bytes()
        if free < wanted:
            raise NotSaved(
                f"the disk has {free} bytes free, and {wanted} must be; free some, or lower "
                "--session-free-disk-bytes"
            )

    @contextlib.contextmanager
    def writing(self) -> Generator[None, None, None]:
        """Tell what goes wrong with the disk as `NotSaved`; a vanished folder is lost."""
        try:
            yield
        except FileNotFoundError:
            self._catalog.lose()
            raise NotSaved(_VANISHED) from None
        except OSError as error:
            raise NotSaved(f"the session directory cannot be written: {error.strerror}") from None
