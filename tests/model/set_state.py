"""One log of one replica set as values: what every node has, and what the coordinator has (guarantees, section 6).

Nodes are letters. A batch is its reign's epoch and a value; an epoch batch has no value. Named tuples only, so that
states can be compared and kept by the hundred thousand.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Pair: TypeAlias = tuple[str, int]
"""A node under an incarnation, as the in-sync set names it."""
Members: TypeAlias = frozenset[Pair]
Batch: TypeAlias = tuple[int, str]
Log: TypeAlias = tuple[Batch, ...]


class SetNode(NamedTuple):
    """One node. ``reported`` is what a primary counts: how many batches each pair was heard to hold.

    ``began``: how many batches the log had when the node's reign began. ``is_reconciled``: a report of this follower
    has counted in the epoch that it follows. ``is_suspect``: it came back with less, and has not reported since.
    """

    log: Log = ()
    committed: int = 0
    incarnation: int = 0
    is_up: bool = True
    role: str = "idle"
    epoch: int = 0
    members: Members = frozenset()
    pending: Members | None = None
    reported: tuple[tuple[Pair, int], ...] = ()
    began: int = 0
    has_lease: bool = False
    is_reconciled: bool = False
    is_suspect: bool = False

    def down(self) -> SetNode:
        """The node without what a process holds in its head."""
        return self._replace(
            is_up=False,
            role="idle",
            members=frozenset(),
            pending=None,
            reported=(),
            has_lease=False,
            is_reconciled=False,
        )


class SetRecordModel(NamedTuple):
    """The coordinator's record."""

    epoch: int
    primary: str
    members: Members


class Write(NamedTuple):
    """A change of the set on its way: applied while the record still is ``base``, whenever it comes."""

    node: str
    base: SetRecordModel
    members: Members


class Spent(NamedTuple):
    """How much of each kind of event has happened, for the bounds of a search."""

    values: int = 0
    kills: int = 0
    cuts: int = 0
    elections: int = 0
    changes: int = 0


class SetState(NamedTuple):
    """Everything. ``visible``: what was ever committed; ``answered``: whether an asynchronous reply is looked at."""

    record: SetRecordModel
    nodes: tuple[tuple[str, SetNode], ...]
    visible: Log = ()
    write: Write | None = None
    spent: Spent = Spent()

    def node(self, name: str) -> SetNode:
        for each, node in self.nodes:
            if each == name:
                return node
        raise KeyError(name)

    def with_node(self, name: str, node: SetNode) -> SetState:
        return self._replace(nodes=tuple((each, node if each == name else old) for each, old in self.nodes))

    def pair(self, name: str) -> Pair:
        return name, self.node(name).incarnation


class Step(NamedTuple):
    """One event: a word of ``set_rules.STEPS``, the node that it happens to, and what the word needs beside that."""

    word: str
    node: str
    other: str = ""
    number: int = 0
    members: Members = frozenset()
    value: str = ""

    def __str__(self) -> str:
        said = [self.word, self.node]
        if self.other:
            said.append(f"with {self.other}")
        if self.members:
            said.append("{" + ", ".join(f"{name}{incarnation}" for name, incarnation in sorted(self.members)) + "}")
        if self.value:
            said.append(self.value)
        if self.word in _NUMBERED:
            said.append(str(self.number))
        return " ".join(said)


_NUMBERED = frozenset({"report", "cut", "receive", "learn", "commit", "elect", "power-cut"})


def beginning(nodes: str, members: str) -> SetState:
    """A set in the first reign, of its first node, with nothing in any log."""
    record = SetRecordModel(1, nodes[0], frozenset((name, 0) for name in members))
    first = SetNode(
        log=((1, ""),),
        role="primary",
        epoch=1,
        members=record.members,
        reported=(((nodes[0], 0), 1),),
        has_lease=True,
    )
    others = [(name, SetNode(role="follower", epoch=1)) for name in nodes[1:]]
    return SetState(record, ((nodes[0], first), *others))
