"""What every codec refuses in the same words. Must not know of any library."""

from __future__ import annotations

from mqcore.errors import CorruptionError, PluginNotFoundError

__all__ = ["damaged", "missing_library", "require_size"]


def require_size(name: str, payload: bytes, size: int) -> bytes:
    """Return ``payload`` if it has exactly ``size`` bytes, else raise ``CorruptionError``."""
    if len(payload) != size:
        raise CorruptionError(
            "payload decompressed to another size", where=f"{name} payload", expected=str(size), found=str(len(payload))
        )
    return payload


def damaged(name: str, detail: object) -> CorruptionError:
    """Return the error for bytes that the library cannot read."""
    return CorruptionError(f"payload does not decompress: {detail}", where=f"{name} payload")


def missing_library(name: str, error: ImportError) -> PluginNotFoundError:
    """Return the error for a codec whose library is not installed; it names the extra that brings it."""
    return PluginNotFoundError(
        f"codec {name!r} needs a library that is not installed ({error}); "
        f"it comes with the extra mqcore[{name}]: pip install 'mqcore[{name}]'"
    )
