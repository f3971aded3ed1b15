"""The floor in one process: `encode_batch_fast` of the same texts, with the ids read."""

from __future__ import annotations

import sys
import time
from typing import Any

from tokenizers import Tokenizer

from ..processes import serve


def main(path: str) -> None:
    """Answer requests on standard input."""
    tokenizer = Tokenizer.from_file(path)

    def encode(batches: list[dict[str, Any]]) -> dict[str, Any]:
        times = []
        for batch in batches:
            start = time.perf_counter()
            ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(batch["texts"])]
            times.append((time.perf_counter() - start) * 1_000)
            if ids != batch["ids"]:
                raise ValueError("the ids differ from those of single texts")
        return {"ms": times}

    serve({"encode": encode}, sys.stdin)


if __name__ == "__main__":
    main(sys.argv[1])
