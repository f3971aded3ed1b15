"""x"""

from collections.abc import Iterator


def retrying() -> Iterator[str]:
    yield ""
