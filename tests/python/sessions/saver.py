"""Saves growing conversations without end, for a test that kills it.

python -m tests.python.sessions.saver FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.python.sessions.rig import Disk, join, text


def main(folder: Path) -> None:
    disk = Disk(folder, quota_bytes=4_000_000)
    turn = 0
    while True:
        turn += 1
        name = f"chat-{turn % 3}"
        disk.save(join(text(200, turn % 3), text(turn % 40 * 60, seed=7)), name)
        sys.stdout.write("saved\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
