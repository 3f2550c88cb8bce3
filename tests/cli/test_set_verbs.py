"""mqcore cluster, replica and status: which node is asked what, what is shown, how each ends.

Two sets of brokers that run in a thread and answer the operations on sets as the test says.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import AsyncExitStack

import attrs
import pytest
import trio

import mqcore
from mqcore.broker.operations import HANDLERS
from mqcore.errors import RejectedError
from mqcore.operations import (
    ClusterNode,
    ClusterSet,
    FoundNode,
    MemberState,
    PrimaryNode,
    RecoveredSet,
    SetDescription,
)
from mqcore.protocol import Code

SETS = {"a": ("a1", "a2"), "b": ("b1",)}
OPERATIONS = (
    "set.describe", "set.init", "set.promote", "set.demote", "set.switchover", "set.recover", "set.cap",
    "replica.add", "replica.remove", "replica.list",
)  # fmt: skip


class FakeCluster:
    """Brokers by name; ``asked`` is what each was asked, in order; ``primaries`` by set."""

    def __init__(self):
        self.urls = {}
        self.asked = []
        self.primaries = {"a": "a2", "b": "b1"}
        self.epochs = {"a": 5, "b": 2}
        self.percent = iter((0, 40, None))
        self.refusal = None
        self.never = None
        self.cancel = {}

    def set_of(self, node):
        return next(name for name, nodes in SETS.items() if node in nodes)

    def members(self, set_name):
        reigning = self.primaries[set_name]
        return tuple(
            MemberState(
                name=node,
                node_id=node.encode().hex() * 8,
                incarnation=1,
                in_sync=True,
                urls=(self.urls[node],),
                lag_messages=None if node == reigning else 1200,
                lag_ms=None if node == reigning else 30,
                last_seen_ms=100,
            )
            for node in SETS[set_name]
        )

    def describe(self, node):
        name = self.set_of(node)
        reigning = self.primaries[name]
        primary = PrimaryNode(name=reigning, node_id="1f" * 16, urls=(self.urls[reigning],)) if reigning else None
        return SetDescription(
            set_name=name,
            set_id="ab" * 16,
            node_id=node.encode().hex() * 8,
            name=node,
            incarnation=1,
            role="primary" if node == reigning else "replica" if reigning else "waiting",
            epoch=self.epochs[name],
            reign_id="cd" * 16,
            primary=primary,
            admitted=True,
            members=self.members(name) if reigning else (),
            known_age_ms=0 if node == reigning else 250,
            sets=tuple(
                ClusterSet(
                    name=each,
                    nodes=tuple(ClusterNode(name=node, urls=(self.urls[node],)) for node in nodes),
                    primary=self.primaries[each],
                )
                for each, nodes in SETS.items()
            ),
            why="" if reigning else "no record: mqcore cluster init",
        )

    async def answer(self, node, operation, request):
        if operation != "set.describe":
            self.asked.append((node, operation, attrs.asdict(request)))
        if self.never is not None and operation != "set.describe":
            await self.never()
        if self.refusal is not None and operation != "set.describe":
            raise self.refusal
        name = self.set_of(node)
        if operation in ("set.switchover", "set.cap") or operation.startswith("replica."):
            assert node == self.primaries[name], f"{operation} was asked of a replica"
        if operation in ("set.promote", "set.init"):
            self.primaries[name], self.epochs[name] = node, self.epochs[name] + 1
        elif operation == "set.demote":
            self.primaries[name] = ""
        elif operation == "set.switchover":
            self.primaries[name] = request.to or "a1"
        elif operation == "set.recover":
            lost = FoundNode(name="a1", node_id="", answered=False, incarnation=0, epoch=0, bytes=0)
            found = FoundNode(name=node, node_id="22" * 16, answered=True, incarnation=3, epoch=5, bytes=1000)
            return RecoveredSet(epoch=9, found=(lost, found))
        elif operation in ("replica.add", "replica.remove"):
            return self.members(name)
        elif operation == "replica.list":
            percent = next(self.percent)
            if percent is not None:
                *rest, last = self.members(name)
                pace = {"sync_bytes_per_s": 12_500_000, "sync_left_ms": 61_900}
                return (*rest, attrs.evolve(last, synced_bytes=percent, sync_bytes_total=100, **pace))
            return self.members(name)
        return self.describe(node)


@pytest.fixture
def cluster(monkeypatch):
    fake = FakeCluster()

    for operation in OPERATIONS:

        async def handle(scope, request, operation=operation):
            return await fake.answer(scope.status()["name"], operation, request)

        monkeypatch.setitem(HANDLERS, operation, handle)
    ready, stop = threading.Event(), None

    async def main():
        nonlocal stop
        async with AsyncExitStack() as stack:
            for name in [node for nodes in SETS.values() for node in nodes]:
                broker = await stack.enter_async_context(
                    mqcore.open_broker(name=name, storage="memory://", listen="tcp://127.0.0.1:0")
                )
                fake.urls[name] = broker.urls[0]
            done = trio.Event()
            token = trio.lowlevel.current_trio_token()
            stop = lambda: trio.from_thread.run_sync(done.set, trio_token=token)  # noqa: E731
            ready.set()
            await done.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(20)
    yield fake
    stop()
    thread.join()


@pytest.fixture
def run(cluster, cli):
    return lambda *arguments: cli("--server", cluster.urls["a1"], *arguments)


def test_describe_shows_every_set_as_its_primary_knows_it(cluster, run):
    result = run("cluster", "describe")
    assert (result.status, result.err) == (0, "")
    assert "set a: a2 is the primary, epoch 5" in result.out
    assert "set b: b1 is the primary, epoch 2" in result.out
    assert "1 200 messages, 30 ms" in result.out
    as_json = json.loads(run("cluster", "describe", "--output", "json").out)
    assert [(each["set_name"], each["name"], each["answered"]) for each in as_json["sets"]] == [
        ("a", "a2", True), ("b", "b1", True),
    ]  # fmt: skip
    assert [member["in_sync"] for member in as_json["sets"][0]["members"]] == [True, True]


def test_describe_says_what_a_set_without_a_primary_waits_for(cluster, run):
    cluster.primaries["a"] = ""
    assert "set a has no primary: no record: mqcore cluster init" in run("cluster", "describe").out


def test_a_set_whose_last_primary_says_that_it_does_not_reign_has_none(cluster, run, monkeypatch):
    """Its replicas go on following it, as far as they know; and one that follows nobody says why."""
    describe = cluster.describe

    def told(node):
        found = describe(node)
        if node == "a2":
            return attrs.evolve(
                found, role="waiting", primary=None, why="its coordinator is away", known_age_ms=1 << 31
            )
        return attrs.evolve(found, why="the primary closed the stream") if node == "a1" else found

    monkeypatch.setattr(cluster, "describe", told)
    out = run("cluster", "describe").out
    assert "set a has no primary: its coordinator is away" in out
    assert "a1 does not follow: the primary closed the stream" in out
    (first, _) = json.loads(run("cluster", "describe", "--output", "json").out)["sets"]
    assert (first["primary"], first["why_apart"]) == (None, {"a1": "the primary closed the stream"})
    assert "a1 does not follow: the primary closed the stream" in run("status").out


def test_a_set_whose_last_primary_came_back_empty_has_none(cluster, run, monkeypatch):
    describe = cluster.describe

    def told(node):
        found = describe(node)
        emptied = {"role": "waiting", "primary": None, "epoch": 0, "why": "the set has not begun"}
        return attrs.evolve(found, **emptied) if node == "a2" else found

    monkeypatch.setattr(cluster, "describe", told)
    out = run("cluster", "describe").out
    assert "set a has no primary: a2, which reigned in epoch 5, does not any more" in out
    assert "a2 does not follow: the set has not begun" in out


def test_the_primary_is_found_by_a_server_whose_configuration_lacks_it(cluster, run, monkeypatch):
    describe = cluster.describe

    def without_primary(node):
        found = describe(node)
        if node == "a1":
            (own, *others) = found.sets
            found = attrs.evolve(found, sets=(attrs.evolve(own, nodes=own.nodes[:1]), *others))
        return found

    monkeypatch.setattr(cluster, "describe", without_primary)
    assert run("replica", "remove", "a1").status == 0
    assert cluster.asked == [("a2", "replica.remove", {"name": "a1"})]


def test_what_is_kept_aside_is_listed_of_the_nodes_that_answer_and_a_dead_one_is_not_waited_for(
    cluster, cli, monkeypatch
):
    monkeypatch.setenv("MQCORE_SERVER", cluster.urls["a1"])
    cluster.urls["a2"] = "tcp://127.0.0.1:1"
    listed = cli("quarantine", "list")
    assert listed.status == 0
    assert "left out: node 'a2': no server answered within 1.5 s" in listed.err
    assert "within 0.3 s" in cli("--timeout", "300 ms", "quarantine", "list").err, "as long as was asked for"


def test_describe_ends_with_4_when_no_node_of_a_set_answers(cluster, run):
    cluster.urls["b1"] = "tcp://127.0.0.1:1"
    result = run("--timeout", "300 ms", "cluster", "describe")
    assert result.status == 4
    assert "set b: no node answers (b1: " in result.out


def test_servers_that_do_not_answer_hold_up_no_other_and_nodes_that_do_not_are_named(cluster, cli, monkeypatch):
    """One server takes connections and says nothing, as a stopped process does."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        dead = "tcp://{}:{}".format(*mute.getsockname())
        living = cluster.urls["a1"]
        cluster.urls["a1"] = dead
        monkeypatch.setenv("MQCORE_SERVER", f"{dead},{living}")
        described = cli("--timeout", "60 s", "cluster", "describe")
        assert (described.status, described.err) == (0, "")
        assert "set a: a2 is the primary" in described.out
        assert "\na1: no server answered within 1.2 s: tcp://" in described.out
        plain = json.loads(cli("--timeout", "60 s", "cluster", "describe", "--output", "json").out)
        assert [each["silent"] for each in plain["sets"]] == [["a1"], []]
        status = cli("--timeout", "60 s", "status")
        assert status.status == 4
        assert "\na1: no server answered within 1.2 s: tcp://" in status.out


def test_of_two_nodes_that_say_they_reign_the_one_of_the_later_epoch_is_believed(cluster, run):
    usual = cluster.describe

    def describe(node):
        if node == "a1":  # a zombie
            return attrs.evolve(usual("a2"), epoch=4, name="a1", primary=attrs.evolve(usual("a2").primary, name="a1"))
        return usual(node)

    cluster.describe = describe
    assert "set a: a2 is the primary, epoch 5" in run("cluster", "describe").out


def test_an_order_that_gets_no_answer_says_that_its_outcome_is_unknown_and_what_to_do(cluster, run):
    cluster.never = trio.sleep_forever
    result = run("--timeout", "300 ms", "cluster", "promote", "a1")
    assert result.status != 0
    assert "outcome unknown: set.promote: no answer within 0.3 s" in result.err
    assert "'mqcore cluster describe' shows how the set is now" in result.err
    again = run("--timeout", "300 ms", "replica", "add", "a1")
    assert "replica.add: no answer within 0.3 s: it may have been done, and repeating it does no harm" in again.err


def test_r14_init_asks_one_node_of_every_set(cluster, run):
    result = run("cluster", "init", "--primary", "a2")
    assert result.status == 0, result.err
    assert [(node, operation) for node, operation, _ in cluster.asked] == [("a2", "set.init"), ("b1", "set.init")]
    assert "initialised: set a: a2 is the primary, epoch 6" in result.out
    both = run("cluster", "init", "--primary", "a1", "--primary", "a2")
    assert (both.status, "both are of set a" in both.err) == (2, True)
    unknown = run("cluster", "init", "--primary", "c")
    assert (unknown.status, "the cluster has no such node; it has a1, a2, b1" in unknown.err) == (2, True)


def test_r16_promote_asks_the_node_itself_with_the_operators_word(cluster, run):
    result = run("cluster", "promote", "a1", "--old-primary-is-stopped")
    assert result.out == "promoted: set a: a1 is the primary, epoch 6\n"
    assert cluster.asked == [("a1", "set.promote", {"old_primary_is_stopped": True, "unclean": False})]
    assert run("cluster", "promote", "b1", "--unclean", "--output", "json").status == 0
    assert cluster.asked[-1] == ("b1", "set.promote", {"old_primary_is_stopped": False, "unclean": True})


def test_a_refusal_is_one_line_and_status_1(cluster, run):
    cluster.refusal = RejectedError("a1 is behind a2: promote that", code=Code.INVALID_REQUEST, name="x")
    result = run("cluster", "promote", "a1")
    assert (result.status, result.err) == (2, "mqcore: a1 is behind a2: promote that\n")


def test_r16_demote_names_the_reign_that_it_means(cluster, run):
    assert run("cluster", "demote", "a2").status == 0
    assert cluster.asked == [("a2", "set.demote", {"epoch": 5, "reign_id": "cd" * 16, "primary": ""})]
    refused = run("cluster", "demote", "a1")
    assert (refused.status, "a1 does not reign" in refused.err) == (2, True)


def test_switchover_is_asked_of_the_primary_whichever_node_is_named(cluster, run):
    result = run("cluster", "switchover", "--to", "a1")
    assert result.out == "handed over: set a: a1 is the primary, epoch 5\n"
    assert cluster.asked == [("a2", "set.switchover", {"to": "a1"})]
    unknown = run("cluster", "switchover", "--to", "c9")
    assert (unknown.status, "no node 'c9'; it has a1, a2, b1" in unknown.err) == (2, True)


def test_r14_recover_shows_what_was_found(cluster, run):
    result = run("cluster", "recover", "a2", "--missing-are-lost")
    assert cluster.asked == [("a2", "set.recover", {"missing_are_lost": True})]
    assert "recovered: a2 reigns in epoch 9" in result.out
    assert "a1    no" in result.out
    assert json.loads(run("cluster", "recover", "a2", "--output", "json").out)["epoch"] == 9


def test_replicas_are_listed_added_with_waiting_and_removed(cluster, run):
    cluster.primaries["a"] = "a1"
    added = run("replica", "add", "a2", "--wait")
    assert added.out == "a2 is in the in-sync set\n", added.err
    assert [operation for _, operation, _ in cluster.asked] == ["replica.add", *["replica.list"] * 3]
    assert run("replica", "add", "a2", "--rate", "20 MB").status == 0
    assert cluster.asked[-1] == ("a1", "replica.add", {"name": "a2", "sync_bytes_per_s": 20_000_000})
    nothing = run("replica", "add", "a2", "--rate", "0")
    assert (nothing.status, "--rate 0: nothing would be sent" in nothing.err) == (2, True)
    cluster.percent = iter((40, 40))
    listed = run("replica", "list")
    assert "synchronising, 40 %, 12.5 MB/s, 1 min 1 s left" in listed.out
    assert [json.loads(line)["name"] for line in run("replica", "list", "--output", "json").out.splitlines()] == [
        "a1", "a2",
    ]  # fmt: skip
    removed = run("replica", "remove", "a2")
    assert removed.out == "a2 was removed from the in-sync set; in it: a1\n"


def test_status_is_of_every_node_and_4_when_one_is_silent(cluster, run):
    result = run("status")
    assert result.status == 0, result.err
    rows = [line.split() for line in result.out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["a1", "a", "replica"], ["a2", "a", "primary"], ["b1", "b", "primary"]]
    cluster.urls["b1"] = "tcp://127.0.0.1:1"
    silent = run("--timeout", "300 ms", "status", "--output", "json")
    assert silent.status == 4
    assert [json.loads(line)["answered"] for line in silent.out.splitlines()] == [True, True, False]


def test_status_of_a_broker_that_is_alone(cli, memory_broker):
    result = cli("--server", memory_broker.urls[0], "status")
    assert result.status == 0, result.err
    assert "primary" in result.out


def test_status_says_that_no_group_is_served_and_why(cli, serve, tmp_path):
    store = f"sqlite://{tmp_path}/away/offsets.db"
    broker = serve("--storage", "memory://", "--listen", "tcp://127.0.0.1:0", "--offset-store", store)
    said = ""
    for _ in range(600):  # the store is looked at once the broker serves
        said = cli("--server", broker.urls[0], "status").out
        if "no group" in said:
            break
        threading.Event().wait(0.05)
    assert "no group is served: the offset store" in said
    assert store in said


def test_r17_cap_is_a_number_of_copies_or_none(cluster, run):
    assert run("cluster", "cap", "1", "--other-side-is-stopped", "--set", "a").status == 0
    assert run("cluster", "cap", "none", "--set", "a").status == 0
    assert [request for _, _, request in cluster.asked] == [
        {"copies": 1, "other_side_is_stopped": True}, {"copies": None, "other_side_is_stopped": False},
    ]  # fmt: skip
    which = run("cluster", "cap", "1")
    assert (which.status, "the cluster has the sets a, b: name the one" in which.err) == (2, True)
    unknown = run("cluster", "cap", "1", "--set", "c")
    assert (unknown.status, "no set 'c'; it has a, b" in unknown.err) == (2, True)
    for wrong in ("0", "two", "²"):
        refused = run("cluster", "cap", wrong)
        assert (refused.status, "write 1 or more, or none" in refused.err) == (2, True)


def test_r17_orders_go_to_the_set_that_they_are_about_whichever_server_is_asked(cluster, run):
    assert run("cluster", "cap", "1", "--set", "b").status == 0
    assert run("replica", "remove", "b1").status == 0
    assert [node for node, _, _ in cluster.asked] == ["b1", "b1"]


def test_a_list_of_what_is_kept_aside_says_which_nodes_it_leaves_out(cluster, cli, monkeypatch):
    cluster.urls["b1"] = "tcp://127.0.0.1:1"
    monkeypatch.setenv("MQCORE_SERVER", cluster.urls["a1"])  # --server would ask that node alone
    result = cli("--timeout", "300 ms", "quarantine", "list")
    assert result.status == 0, result.err
    assert "mqcore: left out: node 'b1': no server answered" in result.err


def test_a_member_that_does_not_follow_is_not_here_whenever_it_did(cluster, run, monkeypatch):
    members = cluster.members
    monkeypatch.setattr(
        cluster, "members", lambda name: tuple(attrs.evolve(each, last_seen_ms=None) for each in members(name))
    )
    cluster.percent = iter((None,))
    listed = run("replica", "list").out
    assert "never" not in listed
    assert "not here: a1, a2; 'mqcore cluster describe' says why" in listed


def test_status_says_that_sends_are_refused_while_they_are(cluster, cli, monkeypatch):
    full = "log 12ab-0: cannot allocate space: No space left on device; free space on its disk, or delete topics"
    monkeypatch.setattr("mqcore.broker._role_facts.RoleFacts.refusing", lambda facts: [full])
    said = cli("--server", cluster.urls["a1"], "status").out
    assert f"a1: sends are refused, and taken again once that is over: {full}" in said
