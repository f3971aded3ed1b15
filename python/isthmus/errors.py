"""The one tree of errors.

Every error that crosses the wire or reaches a caller is an `IsthmusError` with a stable `code`,
`retryable`, and where known a `phase` and details. Messages say what to do about it. The codes
are listed in `tests/vectors/errors.json`, which both languages are held to. This module knows
nothing of frames, processes or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class IsthmusError(Exception):
    """An error with a stable code.

    Args:
        message: What happened and how to mend it.
        phase: Where in its life the request was (`queue`, `load`, `prefill`, ...).
        retry_after_ms: When a retry may succeed, in milliseconds.
        details: JSON-like facts for programs, such as `field` or `cause`.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        phase: str | None = None,
        retry_after_ms: float | None = None,
        **details: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.phase = phase
        self.retry_after_ms = retry_after_ms
        self.details = details

    def to_wire(self) -> dict[str, Any]:
        """Return the error map of the protocol (section 2.4)."""
        wire: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }
        if self.phase is not None:
            wire["phase"] = self.phase
        if self.retry_after_ms is not None:
            wire["retry_after_ms"] = self.retry_after_ms
        if self.details:
            wire["details"] = self.details
        return wire


class InternalError(IsthmusError):
    """A defect in Isthmus or in a library below it."""


class InvalidRequest(IsthmusError):
    """A field is missing, of the wrong type or out of range; `details.field` names it."""

    code = "INVALID_REQUEST"


class UnknownMethod(IsthmusError):
    """The runtime has no such method."""

    code = "UNKNOWN_METHOD"


class DuplicateId(IsthmusError):
    """The request id is still in use."""

    code = "DUPLICATE_ID"


class DecodeError(IsthmusError):
    """A payload is not a valid message."""

    code = "DECODE_ERROR"


class DepthExceeded(IsthmusError):
    """A message nests deeper than the limit."""

    code = "DEPTH_EXCEEDED"


class FrameTooLarge(IsthmusError):
    """A frame or message is longer than the limit."""

    code = "FRAME_TOO_LARGE"


class RemoteProtocolError(IsthmusError):
    """The other side broke the framing; nothing more can be read from it."""

    code = "REMOTE_PROTOCOL_ERROR"
    retryable = True


class LocalProtocolError(IsthmusError):
    """This side was asked to send what the protocol forbids; nothing was sent."""

    code = "LOCAL_PROTOCOL_ERROR"


class VersionMismatch(IsthmusError):
    """Host and runtime speak different protocol versions."""

    code = "VERSION_MISMATCH"


class ModelNotLoaded(IsthmusError):
    """No model has that handle."""

    code = "MODEL_NOT_LOADED"


class ModelLoadFailed(IsthmusError):
    """The model cannot be loaded; `details.cause` says why."""

    code = "MODEL_LOAD_FAILED"


class PathRefused(IsthmusError):
    """A path or id leaves its root or has forbidden characters."""

    code = "PATH_REFUSED"


class CodeRefused(IsthmusError):
    """The model folder asks for code to be run."""

    code = "CODE_REFUSED"


class MemoryLimit(IsthmusError):
    """The model does not fit the memory budget."""

    code = "MEMORY_LIMIT"


class Cancelled(IsthmusError):
    """The request was cancelled."""

    code = "CANCELLED"


class DeadlineExceeded(IsthmusError):
    """The deadline passed; `phase` says where."""

    code = "DEADLINE_EXCEEDED"


class QueueFull(IsthmusError):
    """Too many requests wait; `retry_after_ms` says when to come back."""

    code = "QUEUE_FULL"
    retryable = True


class SessionBusy(IsthmusError):
    """Another call is at work on the session, and this one did not want to wait."""

    code = "SESSION_BUSY"
    retryable = True


class CircuitOpen(IsthmusError):
    """Calls of this model have failed too often lately; `retry_after_ms` says when to come back."""

    code = "CIRCUIT_OPEN"
    retryable = True


class Unavailable(IsthmusError):
    """A passing failure, such as of I/O: the same call may succeed at once."""

    code = "UNAVAILABLE"
    retryable = True


class NumericError(IsthmusError):
    """The model produced logits that are not finite."""

    code = "NUMERIC_ERROR"


class ConstraintFailed(IsthmusError):
    """The output cannot be completed, or was not, as `response_format` demands."""

    code = "CONSTRAINT_FAILED"


class EngineDead(IsthmusError):
    """The engine thread has ended."""

    code = "ENGINE_DEAD"
    retryable = True


class Closing(IsthmusError):
    """The runtime is shutting down."""

    code = "CLOSING"
    retryable = True


class RuntimeExited(IsthmusError):
    """The runtime process ended; its exit status and last stderr lines are attached."""

    code = "RUNTIME_EXITED"
    retryable = True


class RuntimeUnresponsive(IsthmusError):
    """The runtime process ran but answered nothing, or its engine stood still; it was ended."""

    code = "RUNTIME_UNRESPONSIVE"
    retryable = True


class RuntimeFailed(IsthmusError):
    """The runtime ended again and again and is not started any more; the message is the report."""

    code = "RUNTIME_FAILED"


class StartFailed(IsthmusError):
    """The runtime ended before it said hello."""

    code = "START_FAILED"


class StartTimeout(IsthmusError):
    """The runtime did not say hello in time."""

    code = "START_TIMEOUT"


class PythonNotFound(IsthmusError):
    """No usable Python was found; only the Node host raises it."""

    code = "PYTHON_NOT_FOUND"


_LEAVES: list[type[IsthmusError]] = [InternalError, *IsthmusError.__subclasses__()]
BY_CODE: Mapping[str, type[IsthmusError]] = {leaf.code: leaf for leaf in _LEAVES}
"""Each code's class, for turning a wire error back into an exception."""


class UnknownError(IsthmusError):
    """An error whose code this version does not know; `code` and `retryable` are the sender's."""

    def __init__(self, code: str, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]


def from_wire(wire: Mapping[str, Any]) -> IsthmusError:
    """Rebuild an error from the protocol's error map; an unknown code keeps its name."""
    code, message = str(wire.get("code", "INTERNAL")), str(wire.get("message", ""))
    known = BY_CODE.get(code)
    if known is None:
        error: IsthmusError = UnknownError(code, message, bool(wire.get("retryable", False)))
    else:
        error = known(message)
    error.phase = wire.get("phase")
    error.retry_after_ms = wire.get("retry_after_ms")
    details = wire.get("details")
    error.details = dict(details) if isinstance(details, dict) else {}
    return error


def own_copy(error: IsthmusError) -> IsthmusError:
    """Return a copy, so that no two callers add tracebacks or details to the same exception."""
    return from_wire(error.to_wire())
