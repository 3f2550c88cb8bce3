"""Retention of a set whose steps are interrupted, and logs that end below where the set's logs begin (R15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sets import SetOfNodes, set_of_nodes
from test_retention_of_a_set import are_level, begin, check_same, findings_in, log_of, send, trim, verify
from virtual_time import in_virtual_time

from mqcore.abc import StorageBackend
from mqcore.broker._fed_log import FedLog
from mqcore.broker._feeder import Feeder
from mqcore.errors import StorageError
from mqcore.log._opening import LogOpener

ONE_COPY: dict[str, Any] = {"flush": "sync", "replication": "async"}
REMOVALS = 4
"""Logs that are removed for one that is begun anew."""


class FailsOnce:
    """A backend's removal that fails at its ``step``-th call."""

    def __init__(self, backend: StorageBackend, step: int) -> None:
        self.calls = 0
        self._backend = backend
        self._step = step
        self._delete_log = backend.delete_log

    async def __call__(self, name: str) -> None:
        self.calls += 1
        if self.calls == self._step:
            raise StorageError("a disk that fails once", kind="io", retryable=True)
        await self._delete_log(name)


@in_virtual_time
@pytest.mark.parametrize(
    ("step", "has_base", "is_killed"),
    [(1, False, True), (2, True, True), (3, True, True), (REMOVALS, False, True), (2, False, False)],
)
async def test_r15_a_log_that_was_being_begun_anew_is_begun_anew_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, has_base: bool, is_killed: bool
) -> None:
    async with set_of_nodes(tmp_path, prefix=f"anew{step}{has_base}{is_killed}", **ONE_COPY) as nodes:
        await begin(nodes)
        await send(nodes, 0, 100)
        await trim(nodes)
        await nodes.until(lambda: are_level(nodes, "ab"))
        if has_base:
            await fall_behind(nodes, 100)
            await nodes.start("b")
        count = 200 if has_base else 100
        await fall_behind(nodes, count)
        broken: list[FailsOnce] = []
        begin_anew = LogOpener.begin_anew

        async def break_once(self: LogOpener, *arguments: Any) -> None:
            if not broken:
                broken.append(FailsOnce(self._backend, step))
                monkeypatch.setattr(self._backend, "delete_log", broken[0])
            await begin_anew(self, *arguments)

        monkeypatch.setattr(LogOpener, "begin_anew", break_once)
        await nodes.start("b")
        await nodes.until(lambda: broken and broken[0].calls >= step)
        if is_killed:
            await nodes.cut_off("b")
            assert {each.state for each in await findings_in(tmp_path / "b")} == {"whole"}
            await nodes.start("b")
        await check_same(nodes, count + 100)
        await nodes.stop("b")
    await verify(tmp_path / "b")


async def fall_behind(nodes: SetOfNodes, first: int) -> None:
    """Have b, once it is level, miss messages that a then trims what lies below."""
    await nodes.until(lambda: are_level(nodes, "ab"))
    await nodes.stop("b")
    await send(nodes, first, 100)
    assert await trim(nodes) > first


@in_virtual_time
@pytest.mark.parametrize("hold_max", ["1 ms", "1 h"], ids=["beyond-its-end", "at-its-end"])
async def test_r15_a_new_primary_whose_log_ends_below_its_start_goes_on_there_and_the_old_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold_max: str
) -> None:
    add_data = Feeder._add_data

    async def only_metadata(self: Feeder, fed: FedLog, *arguments: Any) -> int:
        return await add_data(self, fed, *arguments) if fed.partition.log.name == "metadata" else 0

    retention = {"sync_hold_max": hold_max}
    async with set_of_nodes(tmp_path, prefix=f"below{hold_max}", **ONE_COPY, retention=retention) as nodes:
        await begin(nodes)
        await send(nodes, 0, 20)
        await nodes.until(lambda: are_level(nodes, "ab"))
        monkeypatch.setattr(Feeder, "_add_data", only_metadata)
        await send(nodes, 20, 180)
        start = await trim(nodes)
        assert start > 20 if hold_max == "1 ms" else start == 20

        def is_told() -> bool:
            roles = nodes.node("b").roles
            assert roles is not None
            return roles.follower is not None and bool(roles.follower.topics.starts)

        await nodes.until(is_told)
        await nodes.cut_off("a")
        monkeypatch.setattr(Feeder, "_add_data", add_data)
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        await send(nodes, start, 30)
        assert log_of(nodes, "b").end_offset == start + 30
        assert await trim(nodes, "b") == start, "what was sent now is not gone with what was trimmed before"
        await nodes.start("a")
        await check_same(nodes, start + 30)
        assert "log-diverged" in nodes.kinds("a")
