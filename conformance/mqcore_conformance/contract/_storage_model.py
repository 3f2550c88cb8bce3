"""A storage against its model: any sequence of operations, drawn by Hypothesis, shrunk when one of them is wrong.

The model is a few byte strings. What a kill and a power cut may take follows from the levels that the storage claims.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any, Literal

import attrs
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore_conformance.contract._checks import CheckFailed, expect

__all__ = ["Operation", "check_against_model", "operations"]

NAMES = ("a", "b", "metadata-0")
LARGE_BYTES = 150_000

Kind = Literal["append", "flush", "read", "truncate", "trim", "delete", "reopen", "kill", "power-cut"]


@attrs.frozen
class Operation:
    """One step: ``log`` is a number of a name, ``where`` a share of the log (0 to 1), ``sizes`` of chunks in bytes."""

    kind: Kind
    log: int = 0
    where: float = 0.0
    sizes: tuple[int, ...] = ()


def operations(crashes: bool) -> st.SearchStrategy[list[Operation]]:
    """Sequences of operations; kills and power cuts only where ``crashes``."""
    log = st.integers(0, len(NAMES) - 1)
    where = st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0))
    size = st.sampled_from((0, 1, 100, 511, 513, 4096, 5000, 20_000, LARGE_BYTES))
    sizes = st.lists(size, min_size=1, max_size=4).map(tuple)
    choices = [
        st.builds(Operation, st.just("append"), log, where, sizes),
        st.builds(Operation, st.just("append"), log, where, sizes),
        st.builds(Operation, st.just("flush"), log, where),
        st.builds(Operation, st.just("read"), log, where, sizes),
        st.builds(Operation, st.just("truncate"), log, where),
        st.builds(Operation, st.just("trim"), log, where),
        st.builds(Operation, st.just("delete"), log),
        st.builds(Operation, st.just("reopen")),
    ]
    if crashes:
        choices += [st.builds(Operation, st.just("kill")), st.builds(Operation, st.just("power-cut"))]
    return st.lists(st.one_of(choices), max_size=25)


@attrs.define
class _LogModel:
    """Bytes from position 0 on, the start, what is certain to be flushed, and what a flush said to be durable."""

    data: bytearray = attrs.field(factory=bytearray)
    start: int = 0
    flushed: int = 0
    told: int = 0


class _Machine:
    """Runs operations on a storage and on its model, side by side."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.disk = ModelDisk(seeded(seed, "disk"))
        self.random = seeded(seed, "content")
        self.models: dict[str, _LogModel] = {}
        self.logs: dict[str, Log] = {}
        self.backend: StorageBackend

    async def open(self) -> None:
        self.backend = create_storage(self.url, StorageContext(ports=model_ports(0, self.disk)))
        await self.backend.open()
        self.logs = {}

    async def log(self, name: str) -> Log:
        if name not in self.logs:
            self.logs[name] = await self.backend.open_log(name)
            self.models.setdefault(name, _LogModel())
        return self.logs[name]

    async def run(self, steps: list[Operation]) -> None:
        await self.open()
        for number, step in enumerate(steps):
            try:
                await self._step(step)
                await self._check_all(step.kind)
            except CheckFailed as error:
                raise CheckFailed(f"step {number + 1}, {step.kind}: {error}") from None
        await self.backend.aclose()

    async def _step(self, step: Operation) -> None:
        name = NAMES[step.log]
        if step.kind in ("reopen", "kill", "power-cut"):
            await self._restart(step.kind)
            return
        log = await self.log(name)
        model = self.models[name]
        at = model.start + int((len(model.data) - model.start) * step.where)
        match step.kind:
            case "append":
                chunks = [self.random.randbytes(size) for size in step.sizes]
                expected = len(model.data)
                position = await log.append(chunks)
                expect(position == expected, f"append to {name} gave position {position}, not the end {expected}")
                model.data += b"".join(chunks)
            case "flush":
                names = sorted(self.logs)
                before = [len(self.models[each].data) for each in names]
                ends = await self.backend.flush([self.logs[each] for each in names])
                for each, end, known in zip(names, ends, before, strict=True):
                    expect(end >= known, f"flush of {each} gave durable end {end} below the end {known}")
                    self.models[each].flushed = self.models[each].told = known
            case "read":
                await self._read(log, model, at, step.sizes[0])
            case "truncate":
                await log.truncate(at)
                del model.data[at:]
                model.flushed, model.told = min(model.flushed, at), min(model.told, at)
            case "trim":
                start = await log.trim(at)
                expect(model.start <= start <= at, f"trim of {name} at {at} gave start {start} (was {model.start})")
                model.start = start
            case "delete":
                await self.backend.delete_log(name)
                self.logs.pop(name, None)
                self.models.pop(name, None)
                listed = await self.backend.list_logs()
                expect(name not in listed, f"{name} is listed after it was deleted")
            case _:
                raise ValueError(step.kind)

    async def _read(self, log: Log, model: _LogModel, at: int, size: int) -> None:
        got = bytes(await log.read(at, size))
        wanted = bytes(model.data[at : at + size])
        expect(len(got) <= size, f"a read of {size} bytes at {at} gave {len(got)}")
        expect(bool(got) or not wanted, f"a read of {size} bytes at {at} gave none below the end {len(model.data)}")
        expect(got == wanted[: len(got)], f"a read of {size} bytes at {at} gave other bytes than were appended")

    async def _check_all(self, kind: Kind) -> None:
        for name, log in self.logs.items():
            model = self.models[name]
            end = len(model.data)
            expect(log.start == model.start, f"{name} starts at {log.start}, not {model.start}")
            expect(log.end == end, f"{name} ends at {log.end}, not {end}")
            expect(log.durable_end <= end, f"{name} is durable to {log.durable_end}, beyond its end {end}")
            expect(
                log.durable_end >= min(model.told, end),
                f"{name} is durable to {log.durable_end} only; {model.told} was flushed",
            )
            if kind not in ("append", "read", "flush"):
                await self._compare(name, log, model, end)

    async def _compare(self, name: str, log: Log, model: _LogModel, end: int) -> None:
        position = model.start
        while position < end:
            view = await log.read(position, end - position)
            expect(len(view) > 0, f"{name} reads nothing at {position}, below {end}")
            same = view == model.data[position : position + len(view)]
            expect(
                same, f"{name} holds other bytes than were appended, between {position} and {position + len(view)}"
            )
            position += len(view)

    async def _restart(self, kind: Kind) -> None:
        capabilities = self.backend.capabilities
        if kind == "reopen":
            await self.backend.aclose()
            self.disk = self.disk.restart()
        else:
            if kind == "power-cut":
                self.disk.power_cut()
            else:
                self.disk.process_kill()
            with trio.CancelScope(shield=True):
                with contextlib.suppress(Exception):  # its process is dead
                    await self.backend.aclose()
            self.disk = self.disk.restart()
        kept = Level.DISK if kind == "power-cut" else Level.PAGE_CACHE
        flushed_stays = capabilities.flush_level >= kept
        appended_stays = capabilities.append_level >= kept
        if not flushed_stays:
            self.models.clear()
        names = sorted(self.models)
        await self.open()
        for name in names:
            await self._meet_again(name, exact=kind == "reopen", appended_stays=appended_stays)

    async def _meet_again(self, name: str, *, exact: bool, appended_stays: bool) -> None:
        model = self.models[name]
        known = len(model.data) if exact or appended_stays else model.flushed
        log = await self.backend.open_log(name)
        self.logs[name] = log
        expect(log.end >= known, f"{name} ends at {log.end} after a restart; {known} bytes had to stay")
        expect(not exact or log.end == known, f"{name} ends at {log.end} after a clean stop, not {known}")
        expect(log.start <= max(model.start, 0), f"{name} starts at {log.start} after a restart, not {model.start}")
        model.start = log.start if log.start <= model.start else model.start
        expect(
            log.durable_end <= max(known, log.start), f"{name} claims {log.durable_end} durable, {known} is true"
        )
        await self._compare(name, log, _LogModel(model.data, max(model.start, log.start)), known)
        if log.end > known:
            await log.truncate(known)
        del model.data[known:]
        model.start = log.start
        model.flushed, model.told = known, 0


def check_against_model(url: str, *, crashes: bool, examples: int = 250, seed: int = 0) -> None:
    """Compare the storage at ``url`` (``{dir}`` replaced) with its model; ``CheckFailed`` tells the shortest way."""
    found: list[tuple[list[Operation], str]] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        phases=(Phase.generate, Phase.shrink),
    )
    @given(operations(crashes))
    def compare(steps: list[Operation]) -> None:
        machine = _Machine(url, seed)
        try:
            run_simulation(machine.run, steps, seed=seed, seconds_max=100_000.0)
        except Exception as error:
            found.append((steps, _first_line(error)))
            raise

    state = random.getstate()
    try:
        compare()
    except Exception:
        steps, text = found[-1]
        raise CheckFailed(f"{text}; shortest: {_tell(steps)}") from None
    finally:
        random.setstate(state)


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    name = "" if isinstance(error, CheckFailed) else f"{type(error).__name__}: "
    return (name + str(error)).splitlines()[0][:300]


def _tell(steps: list[Operation]) -> str:
    words = []
    for step in steps:
        detail: list[Any] = []
        if step.kind in ("append", "read", "truncate", "trim", "delete"):
            detail.append(NAMES[step.log])
        if step.kind == "append":
            detail.append(f"{'+'.join(map(str, step.sizes))} bytes")
        elif step.kind in ("read", "truncate", "trim"):
            detail.append(f"at {step.where:.0%}")
        words.append(" ".join([step.kind, *map(str, detail)]))
    return ", ".join(words)
