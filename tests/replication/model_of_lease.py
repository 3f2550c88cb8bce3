"""A small world in which nodes hold, watch and take a lease: a coordinator, messages, clocks, and what goes wrong.

Nodes are those of ``mqcore.replication``'s machine with the shortest shell that obeys its documentation. The judge is
the one thing that a lease is for: at no moment of real time do two nodes hold a valid one. ``LeaseWorld.step`` takes a
word and numbers, which is what property tests, search and mutants have in common.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

from mqcore.replication import ClockReading, LeaseHolder, LeaseObserver, LeaseTerms

TERMS = LeaseTerms(lease_ms=1_000, margin_ms=40, clock_drift_ppm_max=50_000)
"""A drift far beyond that of real clocks: it is to matter."""
NODES = 3
EMPTY = (0, 0, b"", None)
"""Epoch and write id of the record, write id and value of the lease."""
Pair = tuple[int, int, bytes, bytes | None]


class TwoAtOnce(AssertionError):
    """Two nodes hold a valid lease at one moment."""


@attrs.define
class Message:
    """A read or a write on its way; ``answer`` is there once the coordinator has served it."""

    node: int
    run: int
    kind: str
    sent: ClockReading
    expect: Pair = EMPTY
    put: Pair = EMPTY
    answer: Pair | None = None
    refused: bool = False
    given_up: bool = False


@attrs.define
class Node:
    number: int
    rate_ppm: int
    boottime_us: int
    wall_ms: float
    run: int = 0
    frozen: bool = False
    epoch_seen: int = 0
    reign: int = 0
    observer: LeaseObserver = attrs.field(factory=lambda: LeaseObserver(TERMS))
    holder: LeaseHolder | None = None
    expect: Pair | None = None
    promotions: dict[int, LeaseHolder] = attrs.field(factory=dict)

    def now(self) -> ClockReading:
        return ClockReading(self.boottime_us, round(self.wall_ms))


class LeaseWorld:
    """See the module. ``rates``: how far each node's clocks run from real time, in millionths."""

    def __init__(self, rates: tuple[int, ...]) -> None:
        self.nodes = [Node(number, rate, 10**9 * number, 10.0**12) for number, rate in enumerate(rates)]
        self.cell: Pair = EMPTY
        self.backup: Pair | None = None
        self.on_the_way: list[Message] = []
        self.ids = 0
        self.seen: Counter[str] = Counter()

    # what may happen

    def step(self, word: str, *numbers: int) -> None:
        getattr(self, f"do_{word}")(*numbers)
        self.judge()

    def judge(self) -> None:
        valid = [node.number for node in self.nodes if not node.frozen and self.is_valid(node)]
        if len(valid) > 1:
            raise TwoAtOnce(f"nodes {valid}")

    def is_valid(self, node: Node) -> bool:
        return node.holder is not None and node.holder.is_valid(node.now())

    def do_pass(self, milliseconds: int) -> None:
        """Let real time go on, in steps so small that the judge sees every moment that matters."""
        while milliseconds > 0:
            part = min(milliseconds, 10)
            milliseconds -= part
            for node in self.nodes:
                if not node.frozen:
                    us = part * (1_000_000 + node.rate_ppm) // 1_000
                    node.boottime_us += us
                node.wall_ms += part
            self.judge()

    def do_look(self, number: int) -> None:
        node = self.nodes[number % NODES]
        if not node.frozen:
            self.send(node, "look")

    def do_renew(self, number: int) -> None:
        node = self.nodes[number % NODES]
        if node.frozen or node.holder is None or node.expect is None or not self.is_valid(node):
            return
        write_id = self.new_id()
        value = node.holder.renewal(write_id, node.now())
        epoch, record, _, _ = node.expect
        self.send(node, "renew", node.expect, (epoch, record, write_id, value))

    def do_promote(self, number: int) -> None:
        """Promote when vacant, or try again a promotion whose outcome is unknown, with the same expectation."""
        node = self.nodes[number % NODES]
        if node.frozen or node.expect is None or (node.holder is not None and not node.holder.is_over):
            return
        if not node.observer.is_vacant(node.now()) or node.expect[0] < node.epoch_seen:  # R14
            return
        self.seen["promotions"] += 1
        node.reign += 1
        reign_id = bytes([node.number, node.run % 256, *node.reign.to_bytes(14, "big")])
        holder = LeaseHolder(node_id=bytes([node.number]) * 16, reign_id=reign_id, terms=TERMS)
        write_id = self.new_id()
        record = self.new_number()
        value = holder.renewal(write_id, node.now())
        node.promotions[record] = holder
        self.send(node, "promote", node.expect, (node.expect[0] + 1, record, write_id, value))

    def do_release(self, number: int) -> None:
        node = self.nodes[number % NODES]
        if node.frozen or node.holder is None or node.expect is None or node.holder.is_over:
            return
        epoch, record, _, _ = node.expect
        self.send(node, "release", node.expect, (epoch, record, self.new_id(), node.holder.release()))

    def do_serve(self, index: int) -> None:
        """Let the coordinator take one message in; those given up by their sender are served like any other."""
        waiting = [message for message in self.on_the_way if message.answer is None]
        if not waiting:
            return
        message = waiting[index % len(waiting)]
        self.serve(message)
        if message.given_up:
            self.on_the_way.remove(message)

    def serve(self, message: Message) -> None:
        if message.kind != "look":
            if (message.expect[1], message.expect[2]) == (self.cell[1], self.cell[2]):
                self.cell = message.put
                self.seen["late writes"] += message.given_up
            else:
                message.refused = True
        message.answer = self.cell

    def do_deliver(self, index: int) -> None:
        served = [message for message in self.on_the_way if message.answer is not None]
        if not served:
            return
        message = served[index % len(served)]
        node = self.nodes[message.node]
        if node.frozen:
            return
        self.on_the_way.remove(message)
        if message.run == node.run:
            self.take(node, message)

    def do_lose(self, index: int) -> None:
        """The sender gives up; what was not served may be, later."""
        if not self.on_the_way:
            return
        message = self.on_the_way[index % len(self.on_the_way)]
        message.given_up = True
        if message.answer is not None:
            self.on_the_way.remove(message)
        self.seen["given up"] += 1

    def do_rush(self, number: int) -> None:
        """A node that is answered at once does what it can: look, then renew what it holds or take what is vacant."""
        node = self.nodes[number % NODES]
        self.at_once("look", node)
        self.at_once("renew" if node.holder is not None and self.is_valid(node) else "promote", node)

    def do_snatch(self, number: int) -> None:
        """A node looks again and again, answered at once and alone in the world, and promotes the moment it may."""
        node = self.nodes[number % NODES]
        for _ in range(3 * TERMS.lease_ms // 10):
            self.at_once("look", node)
            before = self.seen["promotions"]
            self.at_once("promote", node)
            if node.frozen or self.seen["promotions"] > before or (node.holder is not None and not node.holder.is_over):
                return
            self.do_pass(10)

    def at_once(self, word: str, node: Node) -> None:
        before = len(self.on_the_way)
        getattr(self, f"do_{word}")(node.number)
        for message in self.on_the_way[before:]:
            self.serve(message)
            self.on_the_way.remove(message)
            self.take(node, message)
        self.judge()

    def do_restart(self, number: int) -> None:
        """The process dies and starts again: its machine remembers nothing, its disk the highest epoch."""
        node = self.nodes[number % NODES]
        if node.frozen:
            return
        node.run += 1
        node.holder = node.expect = None
        node.promotions = {}
        node.observer = LeaseObserver(TERMS)

    def do_freeze(self, number: int) -> None:
        """A hypervisor takes the machine away: its boot-time clock stands still, its wall clock is right after it."""
        self.nodes[number % NODES].frozen = True

    def do_thaw(self, number: int) -> None:
        self.nodes[number % NODES].frozen = False

    def do_blink(self, number: int, milliseconds: int) -> None:
        """A machine is taken away for a moment."""
        self.do_freeze(number)
        self.do_pass(milliseconds)
        self.do_thaw(number)

    def do_jump(self, number: int, milliseconds: int) -> None:
        """Somebody sets the wall clock; what stands on it would be a promise that depends on it."""
        self.nodes[number % NODES].wall_ms += milliseconds

    def do_backup(self) -> None:
        self.backup = self.cell

    def do_restore(self) -> None:
        """Stop the coordinator, put an old copy back, start it: nothing on the way survives, and it takes its time."""
        if self.backup is None:
            return
        self.seen["restores"] += self.backup != self.cell
        self.on_the_way.clear()
        self.do_pass(TERMS.gap_ms * 11 // 10)
        # Whoever follows a reign has its epoch in its log (R14); what no other node has seen is the record's to keep.
        epoch = self.cell[0]
        for node in self.nodes:
            node.epoch_seen = max(node.epoch_seen, epoch)
        self.cell = self.backup

    # the shell

    def send(self, node: Node, kind: str, expect: Pair = EMPTY, put: Pair = EMPTY) -> None:
        self.on_the_way.append(Message(node.number, node.run, kind, node.now(), expect, put))

    def take(self, node: Node, message: Message) -> None:
        """What a node does with an answer."""
        answer = message.answer
        assert answer is not None
        if message.given_up:
            return
        now = node.now()
        if message.kind == "look" or message.refused:
            sent = message.sent if message.kind == "look" else now
            self.take_pair(node, answer, sent if message.kind == "look" else None, now)
        elif message.kind == "renew":
            assert node.holder is not None
            if message.put[2] in node.holder._pending:
                node.holder.applied(message.put[2], now)
                node.expect = answer
        elif message.kind == "promote":
            self.crown(node, answer, now)

    def take_pair(self, node: Node, pair: Pair, sent: ClockReading | None, now: ClockReading) -> None:
        if sent is None:
            sent = now  # read after a conflict: as if read at once
        node.observer.saw(pair[2], pair[3], sent=sent, received=now)
        self.crown(node, pair, now)
        node.epoch_seen = max(node.epoch_seen, pair[0])
        if node.holder is not None and not node.holder.is_over:
            if node.expect is not None and pair[1] != node.expect[1]:
                node.holder.end()
            else:
                node.holder.found(pair[2], now)
        node.expect = pair

    def crown(self, node: Node, pair: Pair, now: ClockReading) -> None:
        """Take over the reign if the record is that of a promotion of this run, whichever try it was."""
        holder = node.promotions.pop(pair[1], None)
        if holder is None:
            return
        node.promotions.clear()
        holder.found(pair[2], now)
        node.holder, node.expect = holder, pair
        node.epoch_seen = max(node.epoch_seen, pair[0])
        self.seen["reigns"] += self.is_valid(node)

    def new_number(self) -> int:
        self.ids += 1
        return self.ids

    def new_id(self) -> bytes:
        return self.new_number().to_bytes(16, "big")


WORDS: dict[str, tuple[int, tuple[int, ...]]] = {
    "pass": (14, (400,)),
    "rush": (12, (NODES,)),
    "snatch": (2, (NODES,)),
    "look": (8, (NODES,)),
    "renew": (5, (NODES,)),
    "promote": (5, (NODES,)),
    "release": (1, (NODES,)),
    "serve": (14, (4,)),
    "deliver": (14, (4,)),
    "lose": (3, (4,)),
    "restart": (1, (NODES,)),
    "freeze": (1, (NODES,)),
    "thaw": (2, (NODES,)),
    "blink": (2, (NODES, 60)),
    "jump": (1, (NODES, 4_000)),
    "backup": (1, ()),
    "restore": (1, ()),
}
"""Each word's weight, and how many values each of its numbers has."""


def random_rates(rng: Any) -> tuple[int, ...]:
    """Rates no further apart than the terms allow: half of the drift to either side."""
    half = TERMS.clock_drift_ppm_max * 49 // 100
    return tuple(rng.choice((-half, 0, half)) for _ in range(NODES))


def random_steps(rng: random.Random, count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    words = list(WORDS)
    weights = [WORDS[word][0] for word in words]
    for word in rng.choices(words, weights, k=count):
        numbers = tuple(rng.randrange(limit) for limit in WORDS[word][1])
        yield word, (numbers[0], numbers[1] - 1_000) if word == "jump" else numbers


_ANSWERED = (("serve", (0,)), ("deliver", (0,)))
_RENEWED = (("pass", (300,)), ("renew", (0,)), *_ANSWERED)
_RESTORED = (("rush", (0,)), ("look", (1,)), *_ANSWERED, ("backup", ()), *_RENEWED * 4, ("restore", ()))
SCRIPTS: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...] = (
    # What a hypervisor takes away of a holder, nearly as long as the whole margin.
    (("rush", (2,)), ("rush", (1,)), ("blink", (2, 38)), ("snatch", (1,))),
    # An observer is cut off while the holder renews; then an old copy is restored in which all is as it saw it.
    (*_RESTORED, ("promote", (1,)), *_ANSWERED),
    (*_RESTORED, ("rush", (1,))),
    # A renewal whose answer takes its time, and a look whose answer does.
    (("rush", (0,)), ("renew", (0,)), ("serve", (0,)), ("rush", (1,)), ("pass", (200,)), ("deliver", (0,)),
     ("snatch", (1,))),
    (("rush", (0,)), ("look", (1,)), ("pass", (200,)), ("renew", (0,)), ("serve", (1,)), ("deliver", (0,)), *_ANSWERED,
     ("snatch", (1,))),
)  # fmt: skip
"""Runs that chance finds too seldom; the first node's clock is the slowest that may be, the second's the fastest."""


def play_script(script: tuple[tuple[str, tuple[int, ...]], ...]) -> LeaseWorld:
    """Play one of ``SCRIPTS``; raises ``TwoAtOnce``."""
    half = TERMS.clock_drift_ppm_max * 49 // 100
    world = LeaseWorld((-half, half, 0))
    for word, numbers in script:
        world.step(word, *numbers)
    return world


def run_of(seed: int, count: int = 200) -> LeaseWorld:
    """Play one run of ``count`` steps; raises ``TwoAtOnce``."""
    rng = random.Random(seed)
    world = LeaseWorld(random_rates(rng))
    for word, numbers in random_steps(rng, count):
        world.step(word, *numbers)
    return world
