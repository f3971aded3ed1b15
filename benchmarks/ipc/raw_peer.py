"""The floor: bytes in, the same bytes out, with blocking calls and nothing else."""

import os


def main() -> None:
    """Echo until the input ends."""
    while data := os.read(0, 65_536):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
