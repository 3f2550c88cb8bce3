"""What a batch is refused with: the same words and wire codes for who builds it and for who takes it.

The codes are those of ``mqcore.protocol`` (a test compares them); this room must not import it.
"""

from __future__ import annotations

from mqcore.errors import RejectedError

__all__ = ["batch_too_large", "check_each", "malformed", "unknown_codec"]

_MALFORMED_BATCH = 102
_BATCH_TOO_LARGE = 103
_MESSAGE_TOO_LARGE = 104
_UNKNOWN_CODEC = 106


def malformed(message: str) -> RejectedError:
    """Return the refusal of a batch that is intact and not what this version or role takes."""
    return RejectedError(message, code=_MALFORMED_BATCH, name="malformed-batch")


def unknown_codec(message: str) -> RejectedError:
    """Return the refusal of a codec tag that has no meaning yet."""
    return RejectedError(message, code=_UNKNOWN_CODEC, name="unknown-codec")


def batch_too_large(found: str, maximum: int) -> RejectedError:
    """Return the refusal of a batch above one of the limits of batches."""
    return RejectedError(f"{found}; allowed are at most {maximum}", code=_BATCH_TOO_LARGE, name="batch-too-large")


def check_each(what: str, lengths: list[int], bytes_max: int) -> None:
    """Raise ``RejectedError`` (``message-too-large``) for the longest of ``lengths`` if it is above ``bytes_max``."""
    largest = max(lengths)
    if largest > bytes_max:
        raise RejectedError(
            f"{what} {lengths.index(largest)} of the batch has {largest} bytes; allowed are at most {bytes_max}",
            code=_MESSAGE_TOO_LARGE,
            name="message-too-large",
        )
