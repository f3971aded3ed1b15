"""python-shell's other end: a line of JSON in, one out, flushed so that it leaves at once."""

from __future__ import annotations

import json
import sys

from service import CALLS


def main() -> None:
    """Serve standard input until it ends."""
    for line in sys.stdin:
        request, method, parameter = json.loads(line)
        if method == "stream":
            for index in range(parameter):
                print(json.dumps([request, index]), flush=True)
        else:
            print(json.dumps([request, CALLS[method](parameter)]), flush=True)


if __name__ == "__main__":
    main()
