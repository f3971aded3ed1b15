"""How much memory there is for models is told from the machine, its groups and its limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.limits import MODEL_MEMORY_PART, MODEL_MEMORY_UNKNOWN_BYTES
from isthmus.models.memory import (
    Machine,
    address_space_left,
    budget_for,
    control_group_limit,
    physical_bytes,
    read_machine,
)

GIB = 1024**3


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("machine", "least"),
    [
        (Machine(16 * GIB), 16 * GIB),
        (Machine(16 * GIB, 2 * GIB), 2 * GIB),
        (Machine(16 * GIB, 8 * GIB, GIB), GIB),
        (Machine(16 * GIB, None, None, 11 * GIB), 11 * GIB),
    ],
)
def test_the_budget_is_a_share_of_the_tightest_bound(machine: Machine, least: int) -> None:
    assert budget_for(machine) == int(least * MODEL_MEMORY_PART)


def test_where_nothing_is_known_there_is_a_fixed_budget() -> None:
    assert budget_for(Machine()) == MODEL_MEMORY_UNKNOWN_BYTES


def test_the_limit_of_a_control_group_and_of_those_around_it_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
            "sys/fs/cgroup/outer/memory.max": f"{3 * GIB}\n",
        },
    )
    assert control_group_limit(root) == 3 * GIB
    write(root, {"sys/fs/cgroup/memory.max": f"{GIB}\n"})
    assert control_group_limit(root) == GIB


def test_control_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu:/x\n4:hugetlb,memory:/group\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
            "sys/fs/cgroup/memory/group/memory.limit_in_bytes": f"{2 * GIB}\n",
        },
    )
    assert control_group_limit(root) == 2 * GIB


@pytest.mark.parametrize("text", ["", "0::\n", "nonsense\n", "1:memory\n"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    assert control_group_limit(write(tmp_path, {"proc/self/cgroup": text})) is None
    assert control_group_limit(tmp_path / "nowhere") is None


def test_this_machine_is_described() -> None:
    machine = read_machine(is_on_engine=False)
    assert machine.physical == physical_bytes() and (machine.physical or 0) > GIB // 4
    assert machine.working_set is None


def test_the_address_space_that_is_left_shrinks_as_it_is_mapped() -> None:
    code = """
import mmap, resource
from isthmus.models.memory import address_space_left
assert address_space_left() is None
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
before = address_space_left()
held = mmap.mmap(-1, 1 << 30)
assert 1 << 30 <= before - address_space_left() < 2 << 30
"""
    if sys.platform != "linux":
        pytest.skip("RLIMIT_AS and /proc are Linux's")
    assert address_space_left() is None or address_space_left() >= 0  # type: ignore[operator]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
