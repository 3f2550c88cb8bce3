"""Contract checks find parts that lie, hang, raise, print or leak, and leave the honest ones alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from mqcore.abc import Capabilities, Log
from mqcore.guarantees import Level
from mqcore.registry import register, unregister
from mqcore_conformance.contract import CHECKS, StorageHarness, run_check
from mqcore_conformance.verdicts import Status
from mqcore_memory import MemoryStorage

MODEL = "any_sequence_of_operations_agrees_with_the_model"


def judged(url: str, name: str, folder: Path):
    return run_check(CHECKS[name], lambda place: StorageHarness(url, place), folder)


@pytest.fixture
def liar(request) -> Iterator[str]:
    register("storage", "liar", request.param)
    yield "liar://"
    unregister("storage", "liar")


class LogWrapper(Log):
    """Everything as inside; subclasses lie."""

    def __init__(self, inner: Log) -> None:
        self.inner, self.name = inner, inner.name

    start = property(lambda self: self.inner.start)
    end = property(lambda self: self.inner.end)
    durable_end = property(lambda self: self.inner.durable_end)

    async def append(self, chunks):
        position = await self.inner.append(chunks)
        self._grown()
        return position

    async def read(self, position, size):
        return await self.inner.read(position, size)

    async def truncate(self, position):
        await self.inner.truncate(position)

    async def trim(self, position):
        return await self.inner.trim(position)

    async def aclose(self):
        await self.inner.aclose()


class Wrapping(MemoryStorage):
    log_class: type[LogWrapper] = LogWrapper

    async def open_log(self, name: str) -> Log:
        inner = await super().open_log(name)
        known = getattr(inner, "wrapper", None)
        if known is None:
            known = inner.wrapper = self.log_class(inner)
        return known

    async def flush(self, logs: Sequence[Log]) -> list[int]:
        return await super().flush([log.inner for log in logs])


class Reorders(LogWrapper):
    async def append(self, chunks):
        return await self.inner.append(list(reversed(list(chunks))))


class LosesTheTail(LogWrapper):
    async def append(self, chunks):
        whole = b"".join(chunks)
        return await self.inner.append([whole[:-1]] if len(whole) > 600 else [whole])


class ForgetsTruncation(LogWrapper):
    async def truncate(self, position):
        await trio.lowlevel.checkpoint()


class WrongEnd(LogWrapper):
    end = property(lambda self: self.inner.end + (1 if self.inner.end > 5_000 else 0))


class StaleBytes(LogWrapper):
    first: bytes = b""

    async def read(self, position, size):
        view = await self.inner.read(position, size)
        self.first = self.first or bytes(view[:1])
        return memoryview(self.first + bytes(view[1:])) if len(view) else view


def storage_of(log: type[LogWrapper]) -> type[Wrapping]:
    return type(f"With{log.__name__}", (Wrapping,), {"log_class": log})


LIARS = [storage_of(log) for log in (Reorders, LosesTheTail, ForgetsTruncation, WrongEnd, StaleBytes)]


@pytest.mark.parametrize("liar", LIARS, indirect=True, ids=lambda part: part.__name__)
def test_a_storage_that_lies_is_found_with_the_shortest_sequence(liar: str, tmp_path: Path) -> None:
    result = judged(liar, MODEL, tmp_path)
    assert result.status is Status.FAIL
    assert result.steps
    assert "\n" not in result.text
    assert len(result.text) < 1_000


@pytest.mark.parametrize("liar", [Wrapping], indirect=True)
def test_the_honest_wrapper_passes(liar: str, tmp_path: Path) -> None:
    assert judged(liar, MODEL, tmp_path).text == ""


class ClaimsTheImpossible(Wrapping):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK, simulable=True)


@pytest.mark.parametrize("liar", [ClaimsTheImpossible], indirect=True)
def test_memory_that_claims_to_be_a_disk_is_found_by_a_power_cut(liar: str, tmp_path: Path) -> None:
    result = judged(liar, MODEL, tmp_path)
    assert result.status is Status.FAIL
    assert "reopen" in result.text or "kill" in result.text or "power-cut" in result.text


class TakesAnything(Wrapping):
    async def open_log(self, name: str) -> Log:
        return await super().open_log("x" if not name.isascii() or "/" in name else name.lower()[:100] or "x")


@pytest.mark.parametrize("liar", [TakesAnything], indirect=True)
def test_names_that_are_taken_are_named(liar: str, tmp_path: Path) -> None:
    result = judged(liar, "names_that_cannot_be_are_refused", tmp_path)
    assert result.status is Status.FAIL


class RaisesAndPrints(Wrapping):
    async def open(self) -> None:
        print("garbage \x1b[2J on the screen")
        raise RuntimeError("no")


@pytest.mark.parametrize("liar", [RaisesAndPrints], indirect=True)
def test_a_part_that_raises_and_prints_fails_in_one_sentence(liar: str, tmp_path: Path, capsys) -> None:
    result = judged(liar, "growth_wakes_who_waits", tmp_path)
    assert result.status is Status.FAIL
    assert "RuntimeError" in result.text
    assert "garbage" in result.output
    assert "garbage" not in capsys.readouterr().out


class Hangs(Wrapping):
    async def open(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize("liar", [Hangs], indirect=True)
def test_a_part_that_hangs_fails(liar: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("mqcore_conformance.contract._checks.SECONDS_MAX", 0.1)
    result = judged(liar, "growth_wakes_who_waits", tmp_path)
    assert result.status is Status.FAIL
    assert "hangs" in result.text


class LeaksDescriptors(Wrapping):
    async def open(self) -> None:
        await super().open()
        self.leak = os.dup(0)


@pytest.mark.parametrize("liar", [LeaksDescriptors], indirect=True)
def test_a_part_that_leaks_descriptors_fails(liar: str, tmp_path: Path) -> None:
    result = judged(liar, "growth_wakes_who_waits", tmp_path)
    assert result.status is Status.FAIL
    assert "open descriptor" in result.text
