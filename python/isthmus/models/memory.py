"""How much memory there is for models: what the machine, its containers and its limits allow.

The budget is a share of the least of physical memory, the memory limit of the control group (v1
and v2), the address space that is left under RLIMIT_AS, and on Metal the working set that mlx
recommends. It has to be kept by asking before a load: mlx's own limit is a guideline, and an
allocation of its that fails under RLIMIT_AS ends the process. Knows no model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..limits import MODEL_MEMORY_PART, MODEL_MEMORY_UNKNOWN_BYTES

_ROOT: Final = Path("/")
_UNLIMITED_BYTES: Final = 2**60
"""Control groups of version 1 say 2**63 less a page for no limit."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What bounds the memory of this process, in bytes; None where nothing does, or nobody says."""

    physical: int | None = None
    control_group: int | None = None
    address_space_left: int | None = None
    working_set: int | None = None

    @property
    def least(self) -> int | None:
        """The tightest bound."""
        bounds = (
            self.physical,
            self.control_group,
            self.address_space_left,
            self.working_set,
        )
        return min((bound for bound in bounds if bound is not None), default=None)


def budget_for(machine: Machine) -> int:
    """Return what loaded models may take together."""
    least = machine.least
    return MODEL_MEMORY_UNKNOWN_BYTES if least is None else int(least * MODEL_MEMORY_PART)


def read_machine(is_on_engine: bool, root: Path = _ROOT) -> Machine:
    """Look at the bounds.

    Args:
        is_on_engine: Whether mlx may be asked, too: on its thread alone.
        root: Where /proc and /sys are found.
    """
    return Machine(
        physical=physical_bytes(),
        control_group=control_group_limit(root),
        address_space_left=address_space_left(),
        working_set=_working_set() if is_on_engine else None,
    )


def physical_bytes() -> int | None:
    """Return the machine's memory."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return size if size > 0 else None


def control_group_limit(root: Path = _ROOT) -> int | None:
    """Return the tightest memory limit of this process's control groups."""
    limits = (_number_in(file) for file in _limit_files(root))
    return min((limit for limit in limits if limit is not None), default=None)


def address_space_left() -> int | None:
    """Return what RLIMIT_AS lets this process map besides what it has; None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return limit
    return max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0)


def _limit_files(root: Path) -> Iterator[Path]:
    """Yield the limit files of this process's groups and of those around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        # In a container the mount may begin at the group itself.
        yield mount / name
        for above in (group, *group.parents):
            yield mount / above / name


def _number_in(file: Path) -> int | None:
    """Return the number that a file holds; None for `max`, and for one that is not there."""
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):
        return None
    return limit if 0 < limit < _UNLIMITED_BYTES else None


def _working_set() -> int | None:
    """Return what mlx recommends to keep in use on Metal; on the engine thread."""
    import mlx.core as mx

    if not mx.metal.is_available():
        return None
    size = mx.device_info().get("max_recommended_working_set_size")
    return int(size) if size else None
