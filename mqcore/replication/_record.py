"""The record of a replica set (rule R1): who reigns, who is in sync, what the set must not fall below.

What a coordinator keeps per set, and the metadata log where there is none. A change is a method that returns the next
record or refuses with the rule that forbids it, so that no shell can write one that the rules do not allow. Must not
know of leases, of coordinators or of logs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import NoReturn

import attrs

from mqcore.errors import CommandNotPossibleError, CorruptionError
from mqcore.ports import Buffer
from mqcore.replication._members import Member

__all__ = ["NODES_PER_SET_MAX", "RECORD_BYTES_MAX", "SetRecord"]

NODES_PER_SET_MAX = 64
RECORD_BYTES_MAX = 65_536
"""What every coordinator takes for a value; a record of the most nodes with the longest names fits."""
NAME_BYTES_MAX = 128
"""Of a node, as in its identity."""
ID_BYTES = 16

_FORMAT = 1
_NUMBER_MAX = (1 << 63) - 1
_KEYS = {"format", "set", "epoch", "reign", "primary", "members", "names", "copies_min", "copies_cap"}


def _set_of(members: Iterable[Member]) -> frozenset[Member]:
    return frozenset(members)


def _copied(names: Mapping[bytes, str]) -> dict[bytes, str]:
    return dict(names)


@attrs.frozen(kw_only=True)
class SetRecord:
    """One state of a set. Ids are 16 bytes; invalid values are a ``ValueError``.

    ``epoch`` and ``reign_id`` name the reign, ``primary`` its node; 0, zeros and ``None`` before the first one.
    ``members``: the in-sync set, one pair a node. ``names``: the configured name of every node of the set, in sync or
    not. ``copies_min``: the largest ``copies`` of the set's topics (R8). ``copies_cap``: what an operator lowered it to
    in an emergency (R17); None: no cap.
    """

    set_id: bytes
    epoch: int
    reign_id: bytes
    primary: bytes | None
    members: frozenset[Member] = attrs.field(converter=_set_of)
    names: Mapping[bytes, str] = attrs.field(converter=_copied, hash=False)
    copies_min: int = 1
    copies_cap: int | None = None

    def __attrs_post_init__(self) -> None:
        for value in (self.set_id, self.reign_id, *self.names):
            _demand(isinstance(value, bytes) and len(value) == ID_BYTES, f"an id that is not {ID_BYTES} bytes")
        _demand(0 <= self.epoch <= _NUMBER_MAX, f"epoch {self.epoch}")
        _demand(1 <= len(self.names) <= NODES_PER_SET_MAX, f"{len(self.names)} nodes, of 1 to {NODES_PER_SET_MAX}")
        for name in self.names.values():
            # What a terminal or a line of a report would take for something else is no name.
            _demand(name.isprintable() and 1 <= len(name.encode()) <= NAME_BYTES_MAX, f"node name {name[:40]!r}")
        _demand(len(set(self.names.values())) == len(self.names), "two nodes of one name")
        nodes = [member.node_id for member in self.members]
        _demand(nodes, "an in-sync set without a member: it could neither acknowledge nor fail over")
        _demand(len(set(nodes)) == len(nodes), "a node under two incarnations: it would count twice")
        _demand(self.names.keys() >= set(nodes), "a member that is no node of the set")
        _demand(all(0 <= member.incarnation <= _NUMBER_MAX for member in self.members), "an incarnation out of range")
        _demand((self.primary is None) == (self.epoch == 0), "a reign without a primary, or a primary without one")
        _demand(self.primary is None or self.primary in nodes, "a primary that is not in the in-sync set")
        _demand((self.epoch == 0) == (self.reign_id == bytes(ID_BYTES)), "an epoch without the id of its reign")
        _demand(1 <= self.copies_min <= _NUMBER_MAX, f"copies_min = {self.copies_min}")
        _demand(self.copies_cap is None or 1 <= self.copies_cap <= _NUMBER_MAX, f"copies_cap = {self.copies_cap}")

    @property
    def floor(self) -> int:
        """Nodes below which the set does not shrink (R8), lowered by the cap (R17)."""
        return self.copies_min if self.copies_cap is None else min(self.copies_min, self.copies_cap)

    def member_of(self, node_id: bytes) -> Member | None:
        """Return the pair under which a node is in the in-sync set, or None."""
        return next((member for member in self.members if member.node_id == node_id), None)

    def name_of(self, node_id: bytes) -> str:
        """Return the configured name of a node, or its id where there is none."""
        return self.names.get(node_id) or node_id.hex()

    def names_of(self, members: Iterable[Member]) -> str:
        """Return the names of members as one text, in order."""
        return ", ".join(sorted(self.name_of(member.node_id) for member in members))

    # changes

    def promoted(self, by: Member, *, epoch: int, reign_id: bytes, unclean: bool = False) -> SetRecord:
        """Return the record of the reign that ``by`` opens. It changes epoch and primary only (R8).

        ``unclean``: ``by`` need not be a member. An operator's election is that, and the return of a set none of whose
        nodes kept its incarnation (guarantees, section 5); the candidates are judged elsewhere. The other members stay:
        they hold what the set acknowledged, and leave by R7. Raises ``CommandNotPossibleError``.
        """
        if epoch <= self.epoch:
            _refuse(f"R3: epoch {epoch} does not follow {self.epoch}, which the record names already")
        if by in self.members:
            return attrs.evolve(self, epoch=epoch, reign_id=reign_id, primary=by.node_id)
        if not unclean:
            known = self.member_of(by.node_id)
            _refuse(
                f"R2: {self.name_of(by.node_id)} is not in the in-sync set ({self.names_of(self.members)})"
                if known is None
                else f"R2: {self.name_of(by.node_id)} is in the in-sync set under incarnation {known.incarnation}; it "
                f"now has incarnation {by.incarnation}, so what it reported as held may be missing"
            )
        others = (member for member in self.members if member.node_id != by.node_id)
        return attrs.evolve(self, epoch=epoch, reign_id=reign_id, primary=by.node_id, members=[*others, by])

    def with_members(
        self,
        members: Collection[Member],
        *,
        names: Mapping[bytes, str] | None = None,
        copies_min: int | None = None,
    ) -> SetRecord:
        """Return the record with another in-sync set, and other nodes or another ``copies_min`` if they are given.

        Raises ``CommandNotPossibleError`` where the primary would leave, or the set fall below its floor (R8); a set
        that is below already may stay as it is and grow, and a member may be replaced by another.
        """
        if self.primary is not None and self.member_of(self.primary) not in members:
            _refuse(f"R7: the primary {self.name_of(self.primary)} does not leave its own set; switch over first")
        changed = attrs.evolve(
            self,
            members=members,
            names=self.names if names is None else names,
            copies_min=self.copies_min if copies_min is None else copies_min,
        )
        left = len(changed.members)
        if left < min(len(self.members), changed.floor):
            _refuse(
                f"R8: the in-sync set would have {left} {'node' if left == 1 else 'nodes'}, and the topics ask for "
                f"{changed.floor} copies; lower a topic's copies, or in an emergency `mqcore cluster cap {left or 1}`"
            )
        return changed

    def capped(self, copies_cap: int | None) -> SetRecord:
        """Return the record with ``copies`` lowered to ``copies_cap`` in an emergency (R17), or as it was with None.

        Only the primary may write it, under its own epoch and lease. Raises ``CommandNotPossibleError`` for a cap that
        lowers nothing.
        """
        if copies_cap is not None and not 1 <= copies_cap < self.copies_min:
            _refuse(f"R17: copies_cap = {copies_cap} lowers nothing: the topics ask for {self.copies_min} copies")
        return attrs.evolve(self, copies_cap=copies_cap)

    # bytes

    def pack(self) -> bytes:
        """Return the record as bytes: canonical JSON, so that equal records are equal bytes."""
        facts = {
            "format": _FORMAT,
            "set": self.set_id.hex(),
            "epoch": self.epoch,
            "reign": self.reign_id.hex(),
            "primary": None if self.primary is None else self.primary.hex(),
            "members": {member.node_id.hex(): member.incarnation for member in self.members},
            "names": {node_id.hex(): name for node_id, name in self.names.items()},
            "copies_min": self.copies_min,
            "copies_cap": self.copies_cap,
        }
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def unpack(cls, data: Buffer, *, where: str) -> SetRecord:
        """Return the record that ``pack`` made.

        ``where`` names the place in messages. Raises ``CorruptionError`` for everything that is not exactly one: a
        record that is nearly right would be believed about who may acknowledge.
        """
        if len(data) > RECORD_BYTES_MAX:
            raise CorruptionError(
                "the record of the set is too long", where=where, found=f"{len(data)} bytes, of {RECORD_BYTES_MAX}"
            )
        try:
            facts = json.loads(bytes(data).decode(), object_pairs_hook=_once)
            _demand(isinstance(facts, dict), "not an object")
            _demand(facts.get("format") == _FORMAT, f"format {facts.get('format')!r}, this release reads {_FORMAT}")
            _demand(facts.keys() == _KEYS, f"keys {sorted(facts)}")
            record = cls(
                set_id=bytes.fromhex(facts["set"]),
                epoch=_integer(facts["epoch"]),
                reign_id=bytes.fromhex(facts["reign"]),
                primary=None if facts["primary"] is None else bytes.fromhex(facts["primary"]),
                members=frozenset(
                    Member(bytes.fromhex(node), _integer(number)) for node, number in facts["members"].items()
                ),
                names={bytes.fromhex(node): _text(name) for node, name in facts["names"].items()},
                copies_min=_integer(facts["copies_min"]),
                copies_cap=None if facts["copies_cap"] is None else _integer(facts["copies_cap"]),
            )
            _demand(record.pack() == bytes(data), "not in canonical form")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptionError(f"the record of the set cannot be read: {error}", where=where) from None
        return record


def _demand(holds: object, text: str) -> None:
    if not holds:
        raise ValueError(f"record of a set with {text}")


def _refuse(text: str) -> NoReturn:
    raise CommandNotPossibleError(text)


def _integer(value: object) -> int:
    # ``True`` is an int to Python, and 1.0 equals 1.
    if type(value) is not int:
        raise ValueError(f"{value!r:.40} is not an integer")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not a text")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    facts = dict(pairs)
    if len(facts) != len(pairs):
        raise ValueError("a key that stands there twice")
    return facts
