"""T1: how a broker's process is started, forked by one that has imported the core, and how it ends."""

from __future__ import annotations

import functools
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from mqcore_conformance.worlds.processes import _starting
from mqcore_conformance.worlds.processes._children import describe_end
from mqcore_conformance.worlds.processes._starting import BrokerProcess, end_process, start_broker

pytestmark = pytest.mark.needs("linux")

PATIENCE_S = 120


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        trio.run(functools.partial(test, **fixtures))

    return run


def keys(folder: Path, **changed: object) -> dict[str, object]:
    return {
        "name": "t1",
        "storage": f"mmap://{folder}/data",
        "listen": [f"unix://{folder}/socket"],
        "topics": {"events": {}},
        "insecure": True,
        **changed,
    }


async def start(folder: Path, **changed: object) -> BrokerProcess:
    asked = {"keys": keys(folder, **changed), "injection": None, "parts": []}
    with (folder / "printed").open("w") as printed:
        return await start_broker(asked, printed, environment=os.environ)


async def said(process: BrokerProcess) -> dict[str, object]:
    """The first line of a broker: it serves."""
    assert process.stdout is not None
    data = b""
    with trio.fail_after(PATIENCE_S):
        while not data.endswith(b"\n"):
            more = await process.stdout.receive_some(4096)
            assert more, "it ended"
            data += more
    facts: dict[str, object] = json.loads(data)
    return facts


def is_there(process: BrokerProcess) -> bool:
    return Path(f"/proc/{process.pid}").exists()


def variables_of(process: BrokerProcess) -> bytes:
    return Path(f"/proc/{process.pid}/environ").read_bytes()


def parent_of(process: BrokerProcess) -> int:
    return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])


@in_trio
async def test_every_broker_is_a_process_of_its_own_that_one_process_forks(tmp_path: Path) -> None:
    brokers, facts = [], []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        brokers.append(await start(tmp_path / name))
        facts.append(await said(brokers[-1]))
    assert len({each.pid for each in brokers} | {os.getpid()}) == 3
    (parent,) = {parent_of(each) for each in brokers}
    assert parent != os.getpid()
    assert facts[0]["node"] != facts[1]["node"], "chance is not inherited"
    for each in brokers:
        assert each.returncode is None
        await end_process(each)
        assert each.returncode == -signal.SIGKILL


@in_trio
async def test_a_broker_stops_in_order_and_its_id_is_nobody_elses_until_it_is_let_go(tmp_path: Path) -> None:
    broker = await start(tmp_path)
    await said(broker)
    broker.terminate()
    with trio.fail_after(PATIENCE_S):
        assert await broker.wait() == await broker.wait() == broker.returncode == 0
    broker.kill()
    assert is_there(broker), "a zombie"
    await end_process(broker)
    broker.kill()  # of what was let go nobody is killed
    with trio.fail_after(PATIENCE_S):
        while is_there(broker):  # noqa: ASYNC110 - what collects it wakes nothing here
            await trio.sleep(0.01)


@in_trio
async def test_a_broker_that_cannot_start_says_why_and_the_next_one_starts(tmp_path: Path) -> None:
    broker = await start(tmp_path, storage="nothing://here")
    with trio.fail_after(PATIENCE_S):
        status = await broker.wait()
    await end_process(broker)
    assert describe_end(status, tmp_path / "printed").startswith("exit status 1: mqcore.errors.")
    broker = await start(tmp_path)
    await said(broker)
    await end_process(broker)


@in_trio
async def test_a_broker_whose_suite_is_gone_ends(tmp_path: Path) -> None:
    broker = await start(tmp_path)
    await said(broker)
    assert broker.stdin is not None
    await broker.stdin.aclose()
    with trio.fail_after(PATIENCE_S):
        assert await broker.wait() == -signal.SIGKILL
    await end_process(broker)


@in_trio
async def test_what_forks_is_another_one_where_variables_are_others_or_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = []
    for number in range(4):
        if number == 2:
            monkeypatch.setenv("SOME_VARIABLE", "changed")
        if number == 3:
            kept = _starting._kept[os.getpid()]
            kept._process.kill()
            kept._process.wait()
        broker = await start(tmp_path)
        await said(broker)
        parents.append(parent_of(broker))
        assert (b"SOME_VARIABLE=changed" in variables_of(broker)) == (number >= 2)
        await end_process(broker)
    _starting._end_kept()
    assert parents[0] == parents[1]
    assert len(set(parents)) == 3


@in_trio
async def test_a_broker_is_started_anew_where_no_process_can_be_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_starting, "why_not_forked", lambda: "not here")
    broker = await start(tmp_path)
    await said(broker)
    assert parent_of(broker) == os.getpid()
    await end_process(broker)
    assert broker.returncode == -signal.SIGKILL
