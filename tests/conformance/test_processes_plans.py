"""What T1 draws and where it drains: two partitions from the first seed on, slow flushes, a way of its own."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mqcore_conformance.broker_process.ports import Injection, faulty_ports
from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.plans import T1_FAMILIES, RunPlan, draw_plan, draw_processes_plan
from mqcore_conformance.play import run_plan
from mqcore_conformance.verdicts import Status
from mqcore_conformance.worlds.processes import ProcessWorld

SEEDS = range(20)


def drawn(family: str, seed: int, storage: str = "mmap://{dir}") -> RunPlan:
    return draw_processes_plan(seed, storage=storage, transport="tcp", flush="sync", family=family)


@pytest.mark.parametrize("family", T1_FAMILIES)
def test_two_producers_write_to_two_partitions_from_the_first_seed_on(family: str) -> None:
    for seed in SEEDS:
        plan = drawn(family, seed)
        assert {producer.partition for producer in plan.producers[:2]} == {0, 1}
        assert all(producer.partition < plan.partitions for producer in plan.producers)


@pytest.mark.parametrize("family", ["kill", "power-cut"])
def test_a_kill_and_a_power_cut_come_within_flushes_that_are_slow(family: str) -> None:
    assert all(drawn(family, seed).disk_latency_us.get("flush", 0) >= 10_000 for seed in SEEDS)


def test_a_flush_of_the_suites_files_takes_what_the_plan_says(tmp_path: Path) -> None:
    _, files = faulty_ports(Injection(flush_us=80_000), lambda fact: None)
    file = files.open(str(tmp_path / "file"), create=True)
    file.pwritev([b"x"], 0)
    began = time.monotonic()
    file.flush()
    assert time.monotonic() - began >= 0.08


def test_a_broker_is_told_how_slow_its_flushes_are(tmp_path: Path) -> None:
    world = ProcessWorld(drawn("power-cut", 0), tmp_path)
    asked = world._asked(None)
    assert asked["injection"]["flush_us"] == world.plan.disk_latency_us["flush"]
    assert not world._is_diverted, "mmap goes through the ports"


def test_the_calls_of_a_storage_with_io_of_its_own_are_diverted_under_faults_of_the_disk_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_io = SimpleNamespace(simulable=False)
    monkeypatch.setattr(ProcessWorld, "capabilities", lambda self: own_io)
    for family in T1_FAMILIES:
        world = ProcessWorld(drawn(family, 0), tmp_path)
        asked = world._asked(None)
        is_of_the_disk = family in ("kill", "kill-at-call", "power-cut", "full", "flush-error")
        assert world._is_diverted == is_of_the_disk
        if asked["injection"] is not None:
            assert (asked["injection"]["undo"], asked["injection"]["kill_at"]) == ("", 0)


# ---- the drain -------------------------------------------------------------------------------------------------------


def test_the_drain_of_a_simulation_goes_round_the_transport_under_test(monkeypatch: pytest.MonkeyPatch) -> None:
    from mqcore_conformance.clients import _consumer

    used: list[tuple[str, str]] = []
    connect = _consumer.connect

    def watched(world: Any, *url: str) -> Any:
        used.append((world.url, *url) if url else (world.url, world.url))
        return connect(world, *url)

    monkeypatch.setattr(_consumer, "connect", watched)
    for transport in ("tcp", "unix"):
        used.clear()
        result = run_plan(draw_plan(0, storage="mmap://{dir}", transport=transport, flush="sync", family="none"))
        assert result.error == ""
        drains = {url for _, url in used if url.startswith("inproc://drain-")}
        assert len(drains) == 1
        assert all(f"{transport}:" in under_test for under_test, _ in used)
        assert {url for _, url in used} - drains <= {under_test for under_test, _ in used}


def test_the_drain_of_real_processes_goes_round_the_proxy(tmp_path: Path) -> None:
    world = ProcessWorld(drawn("proxy-cut", 0), tmp_path)
    world.url = "tcp://127.0.0.1:1"  # where a proxy would listen
    assert world.drain_url == world.listen_url != world.url
    assert world.config_keys("mmap:///data")["listen"] == [world.drain_url]


# ---- cells whose fault finds nothing ---------------------------------------------------------------------------------


def test_a_cell_whose_faults_find_nothing_says_that_they_struck() -> None:
    cell = Cell(tier="T0", storage="mmap://{dir}", transport="inproc", flush="none", family="stop")
    result = run_cell(cell, (), extra_seeds_max=0)
    assert result.reason == ""
    from mqcore_conformance.saboteurs import INJECTORS

    (harmless,) = (one for one in INJECTORS if one.name == "cut-that-flushes")
    result = run_cell(harmless.cell, (0, 1), sabotage=harmless.make, extra_seeds_max=0)
    assert result.status is Status.INCONCLUSIVE
    assert "struck in 2 seeds and found nothing to take" in result.reason
