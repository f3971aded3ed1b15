"""The process's entry: claims the wire's descriptors before anything else is imported."""

import signal
import sys


def main() -> None:
    """Run the command line; `isthmus runtime` claims standard input and output first."""
    if sys.argv[1:2] == ["runtime"] and not {"-h", "--help"} & set(sys.argv[2:]):
        # A Ctrl-C reaches the whole process group; what to do is the host's decision.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from .transport.claim import claim_stdio

        pipes = claim_stdio()
        from .transport.parent import ParentWatch

        # Before the imports, which take longer than a host may live.
        ParentWatch().arm()
        from .cli import run_runtime_command

        run_runtime_command(sys.argv[2:], pipes)
    else:
        from .cli import run_command

        sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
