"""The same without ids: the order of the answers says which is whose."""

from __future__ import annotations

import json
import sys

from service import CALLS


def main() -> None:
    """Serve standard input until it ends."""
    for line in sys.stdin:
        method, parameter = json.loads(line)
        if method == "stream":
            for index in range(parameter):
                print(index, flush=True)
        else:
            print(json.dumps(CALLS[method](parameter)), flush=True)


if __name__ == "__main__":
    main()
