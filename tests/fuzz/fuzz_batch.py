"""Fuzz target of the batch: ``python tests/fuzz/fuzz_batch.py -max_total_time=60 [CORPUS]`` where atheris is installed.

The bytes are taken as they are, and once more with size and checksum put right, so that the fuzzer gets past them.
Every outcome but a refusal or a consistent reading is a find.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

# atheris follows the branches of what is imported under its eyes
with atheris.instrument_imports(include=["mqcore.batch"]) if atheris else contextlib.nullcontext():
    from mqcore.batch import HEADER_BYTES, control_payload, decode_batch, seal_body, tags_in, unpack_header
    from mqcore.errors import CorruptionError, PluginNotFoundError, RejectedError
    from mqcore.limits import Limits

LIMITS = Limits(
    batch_bytes_max=65536,
    batch_messages_max=4096,
    batch_uncompressed_bytes_max=262_144,
    message_bytes_max=65536,
    key_bytes_max=1024,
    headers_bytes_max=1024,
    batch_tags_max=16,
    tag_bytes_max=64,
)
SEEDS = Path(__file__).parents[1] / "batch" / "vectors"


def one_input(data: bytes) -> None:
    """Read ``data`` in every way that a hostile peer can have it read."""
    read(data)
    if len(data) >= HEADER_BYTES:
        sealed = bytearray(data)
        struct.pack_into("<I", sealed, 12, len(sealed))
        seal_body(sealed)
        read(sealed)


def read(data: bytes | bytearray) -> None:
    """Decode ``data`` and hold what comes out against its header."""
    with contextlib.suppress(CorruptionError):
        assert len(control_payload(data)) == len(data) - HEADER_BYTES
    try:
        decoded = decode_batch(memoryview(data), LIMITS)
    except (CorruptionError, RejectedError):
        return
    count = unpack_header(data).count
    assert len(decoded.timestamps_ms) == count
    assert decoded.keys is None or len(decoded.keys) == count
    assert decoded.tags is None or len(decoded.tags) == count
    different = {tag.encode() for tag in decoded.tags or () if tag is not None}
    assert set(tags_in(data, decoded.header) or ()) == different
    with contextlib.suppress(CorruptionError):
        assert decoded.headers is None or len(decoded.headers) == count
    try:
        values = decoded.values
    except (CorruptionError, PluginNotFoundError):
        return
    assert len(values) == count
    assert sum(map(len, values)) == decoded.header.payload_uncompressed_bytes


def main() -> None:
    """Run atheris with the command line's options; without a corpus folder it begins with the committed vectors."""
    if atheris is None:
        sys.exit("fuzz_batch.py: the fuzzer atheris is not installed; pip install atheris")
    arguments = list(sys.argv)
    if all(each.startswith("-") for each in arguments[1:]):
        arguments.append("-seed_inputs=" + ",".join(str(path) for path in sorted(SEEDS.glob("*.bin"))))
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
