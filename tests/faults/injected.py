"""x"""

from collections.abc import Iterator


def injecting() -> Iterator[str]:
    yield ""
