"""Faults on purpose: a runtime that crashes, hangs, stalls, fails or corrupts where it is told to.

For tests, and for users who want to see what their program makes of it. Off unless the runtime was
started with `--faults` or `--fault`: then nothing here is even asked.
"""

from .faults import Faults
from .spec import ACTIONS, POINTS, TRIGGERS, Action, FaultSpec, Point, parse_spec, usage

__all__ = [
    "ACTIONS",
    "POINTS",
    "TRIGGERS",
    "Action",
    "FaultSpec",
    "Faults",
    "Point",
    "parse_spec",
    "usage",
]
