"""Calls to an ensemble: who is asked, what a failure says about a write, which connection is used again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from mqcore.abc import CoordinatorContext, Url
from mqcore.ensembles import (
    IDLE_CONNECTIONS_MAX,
    PAUSE_S_MAX,
    Ensemble,
    EnsembleMember,
    Revision,
    ServerConnection,
    ServerFailureError,
    ServerRefusalError,
    parse_ensemble,
    read_secret,
)
from mqcore.errors import (
    ConfigurationError,
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CoordinatorWentBackError,
)
from mqcore.ports import system_ports

URL = Url.parse("etcd://a:1,b:2,c:3/mqcore")
TIMEOUT_S = 0.9


@attrs.define(eq=False)
class FakeConnection(ServerConnection):
    """A connection to ``member`` that does nothing."""

    member: str
    sent: bool = False
    usable: bool = True
    closed: bool = False

    def is_usable(self) -> bool:
        return self.usable

    def close(self) -> None:
        self.closed = True


class Network:
    """Opens fake connections; ``down`` refuse, ``mute`` never finish the connect."""

    def __init__(self, url: Url = URL) -> None:
        self.down: set[str] = set()
        self.mute: set[str] = set()
        self.opened: list[FakeConnection] = []
        members, _ = parse_ensemble(url, 0, "mqcore")
        context = CoordinatorContext(ports=system_ports(seed=1), call_timeout_ms=round(TIMEOUT_S * 1000))
        self.ensemble: Ensemble[FakeConnection] = Ensemble(url, members, context, self._open)

    async def _open(self, member: EnsembleMember) -> FakeConnection:
        await trio.lowlevel.checkpoint()
        if member.host in self.down:
            raise OSError("connection refused")
        if member.host in self.mute:
            await trio.sleep_forever()
        self.opened.append(FakeConnection(member.host))
        return self.opened[-1]


def run(main: Callable[[Network], object]) -> None:
    async def with_network() -> None:
        with trio.fail_after(600):
            await main(Network())  # type: ignore[misc]

    trio.run(with_network, clock=trio.testing.MockClock(autojump_threshold=0))


async def whom(connection: FakeConnection) -> str:
    connection.sent = True
    await trio.lowlevel.checkpoint()
    return connection.member


def test_members_that_refuse_are_passed_over_within_one_call() -> None:
    async def main(network: Network) -> None:
        network.down = {"a", "b"}
        assert await network.ensemble.call("read", whom) == "c"
        network.down = {"a", "b", "c"}
        for connection in network.opened:
            connection.usable = False
        with pytest.raises(CoordinatorUnreachableError, match=r"a:1.*connection refused") as caught:
            await network.ensemble.call("read of 'x'", whom)
        assert "etcd://a:1,b:2,c:3: read of 'x': not done" in str(caught.value)
        assert str(caught.value).count("refused") == 3

    run(main)


def test_a_member_whose_answer_a_caller_did_not_wait_for_is_not_asked_again_at_once() -> None:
    """A caller's limit may be no longer than the call's own: the member would be asked for ever (Patroni #3335)."""

    async def main(network: Network) -> None:
        first = await network.ensemble.call("read", whom)

        async def never(connection: FakeConnection) -> None:
            await trio.sleep_forever()

        with trio.move_on_after(TIMEOUT_S / 10):
            await network.ensemble.call("write", never, writes=True)
        assert await network.ensemble.call("read", whom) != first

    run(main)


def test_a_member_that_never_answers_costs_a_read_its_share_of_the_time_only() -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> str:
            if connection.member != "c":
                await trio.sleep_forever()
            return connection.member

        began = trio.current_time()
        assert await network.ensemble.call("read", exchange) == "c"
        assert trio.current_time() - began <= TIMEOUT_S * 2 / 3 + 0.001
        network.mute = {"a", "b", "c"}
        network.opened[-1].usable = False
        began = trio.current_time()
        with pytest.raises(CoordinatorUnreachableError, match="no answer in time"):
            await network.ensemble.call("read", exchange)
        assert trio.current_time() - began == pytest.approx(TIMEOUT_S)

    run(main)


def test_the_call_after_a_failure_goes_to_another_member_and_stays_there() -> None:
    async def main(network: Network) -> None:
        first = await network.ensemble.call("read", whom)
        network.down = {first}
        network.opened[-1].usable = False
        second = await network.ensemble.call("read", whom)
        network.down = set()
        assert second != first
        assert await network.ensemble.call("read", whom) == second
        assert len(network.opened) == 2

    run(main)


@pytest.mark.parametrize("failure", [OSError("reset"), ServerFailureError("closed"), trio.BrokenResourceError("gone")])
def test_a_write_that_was_sent_and_failed_is_unknown_and_is_not_sent_again(failure: Exception) -> None:
    async def main(network: Network) -> None:
        sends = 0

        async def exchange(connection: FakeConnection) -> None:
            nonlocal sends
            sends += 1
            connection.sent = True
            raise failure

        with pytest.raises(CoordinatorOutcomeUnknownError, match="write again with the same expectation"):
            await network.ensemble.call("write", exchange, writes=True)
        assert sends == 1
        assert network.opened[0].closed

    run(main)


def test_a_write_of_which_nothing_was_sent_is_tried_at_the_next_member() -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> str:
            if len(network.opened) < 3:
                raise ServerFailureError("closed before anything was sent")
            return connection.member

        assert await network.ensemble.call("write", exchange, writes=True) == network.opened[2].member

    run(main)


@pytest.mark.parametrize(
    ("sure", "error"), [(True, CoordinatorUnreachableError), (False, CoordinatorOutcomeUnknownError)]
)
def test_a_refused_write_is_not_applied_only_if_the_answer_makes_it_sure(sure: bool, error: type[Exception]) -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> None:
            connection.sent = True
            raise ServerRefusalError("no", sure=sure, elsewhere=True)

        with pytest.raises(error):
            await network.ensemble.call("write", exchange, writes=True)
        assert len(network.opened) == (3 if sure else 1)

    run(main)


def test_a_refusal_that_every_member_would_give_ends_the_call() -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> None:
            raise ServerRefusalError("wrong password", sure=True, elsewhere=False)

        with pytest.raises(CoordinatorUnreachableError, match="wrong password"):
            await network.ensemble.call("read", exchange)
        assert len(network.opened) == 1

    run(main)


def test_a_connection_whose_call_was_cancelled_is_closed_and_never_used_again() -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> None:
            await trio.sleep_forever()

        with trio.move_on_after(0.01):
            await network.ensemble.call("write", exchange, writes=True)
        assert network.opened[0].closed
        await network.ensemble.call("read", whom)
        assert len(network.opened) == 2

    run(main)


def test_a_connection_is_kept_after_a_conflict_and_dropped_when_it_is_not_usable() -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> None:
            raise network.ensemble.conflict("write of 'x'")

        for _ in range(2):
            with pytest.raises(CoordinatorConflictError, match="read them again"):
                await network.ensemble.call("write", exchange, writes=True)
        assert len(network.opened) == 1
        network.opened[0].usable = False
        await network.ensemble.call("read", whom)
        assert network.opened[0].closed

    run(main)


def test_calls_run_beside_each_other_and_few_connections_are_kept() -> None:
    async def main(network: Network) -> None:
        async def exchange(connection: FakeConnection) -> None:
            await trio.sleep(0.1)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(network.ensemble.call, "read", exchange)
        assert trio.current_time() - began == pytest.approx(0.1)
        assert sum(not connection.closed for connection in network.opened) == IDLE_CONNECTIONS_MAX

    run(main)


def test_closing_ends_what_is_open_and_later_calls_say_so() -> None:
    async def main(network: Network) -> None:
        await network.ensemble.call("read", whom)
        network.ensemble.close()
        network.ensemble.close()
        assert network.opened[0].closed
        with pytest.raises(CoordinatorUnreachableError, match="it was closed"):
            await network.ensemble.call("read", whom)

    run(main)


def test_a_watch_calls_at_once_and_connects_again_with_growing_pauses_at_the_next_member() -> None:
    async def main(network: Network) -> None:
        calls: list[float] = []

        async def follow(connection: FakeConnection) -> None:
            calls.append(trio.current_time())
            raise ServerFailureError("closed")

        with trio.move_on_after(60):
            await network.ensemble.watch(follow, lambda: calls.append(trio.current_time()))
        pauses = [later - earlier for earlier, later in itertools.pairwise(calls[1:])]
        assert calls[0] == calls[1]
        assert 0.025 <= pauses[0] <= 0.05
        assert all(pause <= PAUSE_S_MAX for pause in pauses)
        assert max(pauses) > PAUSE_S_MAX / 2
        assert {connection.member for connection in network.opened} == {"a", "b", "c"}
        assert all(connection.closed for connection in network.opened)

    run(main)


def test_a_watch_outlives_servers_that_are_down_or_mute() -> None:
    async def main(network: Network) -> None:
        network.down, network.mute = {"a"}, {"b", "c"}
        followed = trio.Event()

        async def follow(connection: FakeConnection) -> None:
            followed.set()
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.ensemble.watch, follow, lambda: None)
            await trio.sleep(100)
            assert not followed.is_set()
            network.mute = set()
            with trio.fail_after(10):
                await followed.wait()
            nursery.cancel_scope.cancel()

    run(main)


def test_r14_a_revision_below_the_one_known_before_the_call_went_back_but_not_one_that_was_overtaken() -> None:
    revision = Revision(URL)
    revision.check("read", 7, 0)
    before = revision.highest
    revision.check("read", 9, before)
    revision.check("read", 8, before)  # began before 9 was seen
    with pytest.raises(CoordinatorWentBackError, match=r"revision 8, after 9.*cluster recover"):
        revision.check("read", 8, revision.highest)


@pytest.mark.parametrize(
    ("text", "members", "path"),
    [
        ("etcd://h", ["h:2379"], "mqcore"),
        ("etcd://h:1,[::1]:2,[::2]/a/b/", ["h:1", "[::1]:2", "[::2]:2379"], "a/b"),
    ],
)
def test_a_url_lists_the_members_and_a_path(text: str, members: list[str], path: str) -> None:
    found, found_path = parse_ensemble(Url.parse(text), 2379, "mqcore")
    assert ([str(member) for member in found], found_path) == (members, path)


@pytest.mark.parametrize("rest", ["", "h:0", "h:65536", "h:x", "h:1,", "h:1,h:1", "[::1", ":5", "h:1,,i:1"])
def test_a_url_that_names_no_servers_is_refused_with_the_form(rest: str) -> None:
    with pytest.raises(ConfigurationError, match="etcd://"):
        parse_ensemble(Url.parse(f"etcd://{rest}"), 2379, "mqcore")


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError, match="password_file") as caught:
        parse_ensemble(Url.parse("etcd://me:hunter2@h:1"), 2379, "mqcore")
    assert "hunter2" not in str(caught.value)


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("hunter2\r\nnot this\n")
    assert read_secret("password_file", os.fspath(path)) == "hunter2"
    assert read_secret("password_file", None) == ""


@pytest.mark.parametrize("content", [b"", b"\nhunter2", b"hunter2\xff", b"hunter2" * 1000])
def test_a_password_file_that_cannot_be_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="password_file") as caught:
        read_secret("password_file", os.fspath(path))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
