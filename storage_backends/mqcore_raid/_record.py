"""The record of an array, kept by each member: which array, which member, which generation, who belongs to it.

A generation is one view of who belongs: each change, and each opening, begins a new one with a random id. ``history``
has the ids of the generations before it, so that an older record is told from one that went another way. A record is
written twice to every member that belongs, first not ``committed``: once one of them is, all have at least the first.
Knows the form only; what follows from several records is ``_assembly``'s subject.
"""

from __future__ import annotations

import json
from typing import Literal

import attrs
from crc32c import crc32c

from mqcore.errors import CorruptionError
from mqcore.ports import FileBirth

__all__ = ["HISTORY_MAX", "ArrayRecord", "SlotState", "decode_record", "encode_record"]

MAGIC = "mqcore-raid-member 1"
HISTORY_MAX = 256
RECORD_BYTES_MAX = 1024 * 1024
PADDED_BYTES = 16 * 1024
"""A record's file is a whole number of these, so that the next one fits where this one was."""

State = Literal["in-sync", "missing", "ejected", "rebuilding"]


@attrs.frozen(kw_only=True)
class SlotState:
    """What the record says of one member: ``member_id`` of its directory, ``path`` where it was last, its ``state``.

    ``since``: generation that began this state. ``reason``: why it is not in sync. ``is_behind``: what the others hold
    has changed since; a missing member that returns before that is in sync again. ``inode``, ``born_ns``,
    ``subvolume``: of the directory of its storage when it was opened last, 0 where that is not known.
    """

    member_id: str
    path: str
    state: State
    since: int
    reason: str = ""
    is_behind: bool = True
    inode: int = 0
    born_ns: int = 0
    subvolume: int = 0

    def stands(self, inode: int, birth: FileBirth) -> bool | None:
        """Whether a directory of that inode and birth is the one that was opened last; None: not known.

        The inode tells only where nothing else does: it is another one's later, as on ext4, and on some file systems,
        such as overlays, it is new at each mount.
        """
        if self.subvolume and birth.subvolume and self.subvolume != birth.subvolume:
            return False
        if self.born_ns and birth.born_ns:
            return self.born_ns == birth.born_ns
        return self.inode == inode if self.inode and inode else None


@attrs.frozen(kw_only=True)
class ArrayRecord:
    """See the module. ``slot``: number of the member that keeps this copy.

    ``may_lack``: a member was missing when this run, or one before it, began, and may know more than those present;
    the core has to raise its incarnation. ``generation`` 0: the array is being made and never held anything.
    ``in_use``: a broker has it open, or ended without closing it.
    """

    array_id: str
    slot: int
    level: str
    copies: int
    stripe_bytes: int
    generation: int
    generation_id: str
    committed: bool
    history: tuple[str, ...]
    may_lack: bool
    members: tuple[SlotState, ...]
    in_use: bool = False

    def next(
        self, random_id: str, members: tuple[SlotState, ...], *, may_lack: bool, in_use: bool = True
    ) -> ArrayRecord:
        """The record of the generation after this one, not committed yet."""
        return attrs.evolve(
            self,
            generation=self.generation + 1,
            # With the number, so that two of one lineage differ whatever was drawn.
            generation_id=f"{self.generation + 1}-{random_id}",
            committed=False,
            history=(*self.history, self.generation_id)[-HISTORY_MAX:],
            may_lack=may_lack,
            in_use=in_use,
            members=members,
        )


def encode_record(record: ArrayRecord) -> bytes:
    """The bytes of a record's file: a line with the checksum, then JSON and spaces."""
    body = json.dumps(attrs.asdict(record), indent=1, sort_keys=True).encode()
    head_bytes = len(f"{MAGIC} {0:08x}\n")
    body += b" " * (-(head_bytes + len(body)) % PADDED_BYTES)
    return f"{MAGIC} {crc32c(body):08x}\n".encode() + body


def decode_record(data: bytes, where: str) -> ArrayRecord:
    """Return the record in ``data``. Raises ``CorruptionError``."""
    head, _, body = data.partition(b"\n")
    expected = f"{MAGIC} {crc32c(body):08x}"
    if head != expected.encode():
        raise CorruptionError(
            "the record of this member is damaged; replace the member",
            where=where,
            expected=expected,
            found=ascii(head[:64].decode(errors="replace")),
        )
    fields = json.loads(body)
    try:
        fields["members"] = tuple(SlotState(**member) for member in fields["members"])
        fields["history"] = tuple(fields["history"])
        return ArrayRecord(**fields)
    except (TypeError, KeyError) as error:
        raise CorruptionError(
            "the record of this member is of another version of mqcore; use that one", where=where, found=str(error)
        ) from error
