"""A storage against its model: any sequence of operations, drawn by Hypothesis, shrunk when one of them is wrong.

The model is a few byte strings. What a kill and a power cut may take follows from the levels that the storage claims.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import hypothesis.configuration
import trio
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as draw_from

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore_conformance.children import alive, doing
from mqcore_conformance.children.queued import queued_s
from mqcore_conformance.children.tracebacks import leaves, printable, remember_tasks, tell_exception
from mqcore_conformance.contract._checks import CheckFailed, expect
from mqcore_conformance.contract._storage_grounds import Ground, LivesSoFar, LogModel
from mqcore_conformance.contract._storage_steps import (
    NAMES,
    Kind,
    Operation,
    operation_from_data,
    operation_to_data,
    operations,
    tried_always,
)

SEARCH_S_MAX, SHRINK_S_MAX = 6.0, 3.0
"""After so much time of the processor no more sequences are tried: a slow storage meets fewer."""

SIMPLE_BYTES = (1, 100, 513, 5000)

CLOCK_FACTOR = 2.5
"""The same by the clock, for a storage that waits for its disk."""


class _Comparison:
    """Runs operations on a storage and on its model, side by side."""

    def __init__(self, ground: Ground, seed: int, state: LivesSoFar) -> None:
        self.ground = ground
        self.seed = seed
        self.state = state
        self.models = state.models
        self.logs: dict[str, Log] = {}
        self.number = 0
        self.what = ""
        self.backend: StorageBackend

    async def run(self, steps: Sequence[Operation], *, killed: bool) -> None:
        """Do the steps; with ``killed`` the storage is left open."""
        after_kill = self.state.lives > 0
        await self._told("open", self._begin, "kill" if after_kill else None, {})
        for step in steps:
            self.number += 1
            await self._told(step.kind, self._step, step)
        self.state.lives += 1
        if not killed:
            await self._told("close", self.backend.aclose)

    async def _told(self, what: str, function: Callable[..., Any], *arguments: object) -> None:
        """Call ``function``; whatever it raises says in which step."""
        self.what = f"step {self.number}, {what}" if self.number else what
        try:
            await function(*arguments)
        except BaseException as error:
            found = leaves(error)
            if any(isinstance(leaf, trio.Cancelled) for leaf in found):
                raise
            failed = next((leaf for leaf in found if isinstance(leaf, CheckFailed)), None)
            text = str(failed) if failed is not None else tell_exception(error)
            raise CheckFailed(f"{self.what}: {text}") from None

    async def _begin(self, after: Kind | None, stated: Mapping[str, int]) -> None:
        """Open it; ``stated``: what each log said to be durable when its life ended, if that is known."""
        self.backend = create_storage(self.ground.url, StorageContext(ports=self.ground.ports()))
        await self.backend.open()
        self.logs = {}
        if after is not None:
            await self._meet_all_again(after, stated)

    async def _log(self, name: str) -> Log:
        if name not in self.logs:
            self.logs[name] = await self.backend.open_log(name)
            self.models.setdefault(name, LogModel())
        return self.logs[name]

    async def _step(self, step: Operation) -> None:
        if step.kind in ("reopen", "kill", "power-cut"):
            stated = {name: log.durable_end for name, log in self.logs.items()}
            await self.ground.restart(step.kind, self.backend)
            await self._begin(step.kind, stated)
        else:
            await self._operate(step, NAMES[step.log])
        # an append is read back now and then: a read may hide that the bytes went nowhere yet
        await self._check_all(step.kind, NAMES[step.log] if step.where >= 0.5 else "")

    async def _operate(self, step: Operation, name: str) -> None:
        log = await self._log(name)
        model = self.models[name]
        at = model.start + int((len(model.data) - model.start) * step.where)
        match step.kind:
            case "append":
                content = random.Random(f"{self.seed}/{self.number}")
                chunks = [content.randbytes(size) for size in step.sizes]
                expected = len(model.data)
                position = await log.append(chunks)
                expect(position == expected, f"append to {name} gave position {position}, not the end {expected}")
                model.data += b"".join(chunks)
            case "flush":
                await self._flush([name] if step.where == 0 else sorted(self.logs))
            case "read":
                await self._read(log, model, at, step.sizes[0])
            case "truncate":
                await log.truncate(at)
                del model.data[at:]
                model.flushed, model.told = min(model.flushed, at), min(model.told, at)
                model.proved = min(model.proved, at)
            case "trim":
                start = await log.trim(at)
                expect(model.start <= start <= at, f"trim of {name} at {at} gave start {start} (was {model.start})")
                model.start = start
            case _:
                await self._delete(name, log)

    async def _flush(self, names: list[str]) -> None:
        before = [len(self.models[name].data) for name in names]
        reached = await self.backend.flush([self.logs[name] for name in names])
        expect(len(reached) == len(names), f"flush of {len(names)} logs gave {len(reached)} results")
        best = self.backend.capabilities.flush_level
        for name, (end, level), known in zip(names, reached, before, strict=True):
            expect(level <= best, f"flush of {name} reached {level.label}, more than {best.label}, which is declared")
            expect(end == known, f"flush of {name} gave durable end {end}; {known} bytes were appended before it")
            model = self.models[name]
            if known > model.told:  # a flush of nothing need not write how far the one before it came
                model.proved = model.told
            model.flushed = model.told = known

    async def _read(self, log: Log, model: LogModel, at: int, size: int) -> None:
        got = bytes(await log.read(at, size))
        wanted = bytes(model.data[at : at + size])
        expect(len(got) <= size, f"a read of {size} bytes at {at} gave {len(got)}")
        expect(bool(got) or not wanted, f"a read of {size} bytes at {at} gave none below the end {len(model.data)}")
        expect(got == wanted[: len(got)], f"a read of {size} bytes at {at} gave other bytes than were appended")

    async def _delete(self, name: str, log: Log) -> None:
        await self.backend.delete_log(name)
        self.logs.pop(name)
        self.models.pop(name)
        listed = await self.backend.list_logs()
        expect(name not in listed, f"{name} is listed after it was deleted")
        with contextlib.suppress(StorageError):
            await log.append([b"x"])
            raise CheckFailed(f"the handle of {name} takes an append after the log was deleted")

    async def _check_all(self, kind: Kind, touched: str) -> None:
        for name, log in self.logs.items():
            model = self.models[name]
            end = len(model.data)
            expect(log.start == model.start, f"{name} starts at {log.start}, not {model.start}")
            expect(log.end == end, f"{name} ends at {log.end}, not {end}")
            expect(log.durable_end <= end, f"{name} is durable to {log.durable_end}, beyond its end {end}")
            told = min(model.told, end)
            expect(log.durable_end >= told, f"{name} is durable to {log.durable_end} only; {told} was flushed")
            if kind not in ("read", "flush") and (kind != "append" or name == touched):
                await self._compare(name, log, model, end)
        if kind not in ("append", "read"):
            listed = await self.backend.list_logs()
            missing = [name for name, model in self.models.items() if model.data and name not in listed]
            expect(not missing, f"{', '.join(missing)} is not listed; listed are {listed}")
            expect(set(listed) <= set(self.models), f"{listed} are listed; opened were {sorted(self.models)}")
            expect(listed == sorted(listed), f"the logs are listed as {listed}, not sorted")

    async def _compare(self, name: str, log: Log, model: LogModel, end: int) -> None:
        position = model.start
        while position < end:
            view = await log.read(position, end - position)
            expect(len(view) > 0, f"{name} reads nothing at {position}, below {end}")
            stop = position + len(view)
            expect(
                view == model.data[position:stop],
                f"{name} holds other bytes than were appended, between {position} and {stop}",
            )
            position = stop

    async def _meet_all_again(self, kind: Kind, stated: Mapping[str, int]) -> None:
        capabilities = self.backend.capabilities
        kept = Level.DISK if kind == "power-cut" else Level.PAGE_CACHE
        if capabilities.flush_level < kept:
            self.models.clear()
        for name in sorted(self.models):
            await self._meet_again(name, kind, stated.get(name, 0), appended_stays=capabilities.append_level >= kept)

    async def _meet_again(self, name: str, kind: Kind, stated: int, *, appended_stays: bool) -> None:
        model = self.models[name]
        exact = kind == "reopen"
        known = len(model.data) if exact or appended_stays else model.flushed
        log = await self.backend.open_log(name)
        self.logs[name] = log
        expect(log.end >= known, f"{name} ends at {log.end} after a restart; {known} bytes had to stay")
        expect(not exact or log.end == known, f"{name} ends at {log.end} after a clean stop, not {known}")
        # a trim is durable when it returns: old data that comes back would be served as new
        expect(log.start == model.start, f"{name} starts at {log.start} after a restart, not {model.start}")
        if kind == "power-cut":
            # only what takes away bytes that were not flushed can tell an overstated end from a true one
            expect(log.end >= stated, f"{name} claimed {stated} durable before a power cut; {log.end} are there")
        durable = log.durable_end
        there = min(log.end, len(model.data))
        expect(durable <= there, f"{name} claims {durable} durable after a restart; {there} appended bytes are there")
        known = max(known, durable)
        proved = min(model.proved, known)
        expect(
            not self.backend.capabilities.proves_durable_end or log.durable_end >= proved,
            f"{name} claims {log.durable_end} durable after a restart; {proved} was, one flush before the last "
            "(proves_durable_end)",
        )
        await self._compare(name, log, model, known)
        if log.end > known:
            await log.truncate(known)
        del model.data[known:]
        model.flushed, model.told, model.proved = known, durable, 0


def play_steps(ground: Ground, steps: Sequence[Operation], seed: int) -> None:
    """Do ``steps`` on the storage and on its model; ``CheckFailed`` says which one is wrong."""
    told: list[Mapping[str, Any]] = [operation_to_data(step) for step in steps]
    machines: list[_Comparison] = []

    async def play(
        ground: Ground, some: Sequence[Operation], first: int, known: LivesSoFar, *, killed: bool = False
    ) -> LivesSoFar:
        doing(told[: first + len(some)])
        remember_tasks()
        machine = _Comparison(ground, seed, known)
        machine.number = first
        machines.append(machine)
        await machine.run(some, killed=killed)
        return known

    try:
        ground.play(steps, play)
    except trio.TooSlowError:
        where = f"{machines[-1].what}: " if machines else ""
        raise CheckFailed(f"{where}it hangs: everything waits, and nothing will happen any more") from None
    except BaseException as error:
        failed = next((leaf for leaf in leaves(error) if isinstance(leaf, CheckFailed)), None)
        raise CheckFailed(str(failed) if failed is not None else tell_exception(error)) from None


def compare_with_model(make_ground: Callable[[], Ground], *, examples: int, folder: str, seed: int) -> str:
    """Compare a storage with its model over sequences drawn from ``seed``; return in words how many there were.

    ``CheckFailed`` has the fewest steps that show a difference.

    ``make_ground`` gives fresh ground for each sequence; Hypothesis keeps its own files in ``folder``.
    """
    hypothesis.configuration.set_hypothesis_home_dir(folder)
    search = _Search(make_ground, seed)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        phases=(Phase.generate,),  # shrinking is ours: it has to end in time
    )
    @draw_from(seed)
    @given(operations(power_cuts=make_ground().power_cuts))
    def compare(steps: list[Operation]) -> None:
        search.attempt(steps)

    state = random.getstate()
    try:
        with contextlib.suppress(Exception):  # what was found is remembered; out of time, Hypothesis finds it flaky
            for sequence in tried_always(power_cuts=make_ground().power_cuts):
                search.attempt(sequence)
            compare()
    finally:
        random.setstate(state)
    if search.best is not None:
        search.shrink()
        steps, text = search.best
        raise CheckFailed(text, [operation_to_data(step) for step in steps])
    if not search.count:
        raise CheckFailed("not one sequence of operations could be tried")
    kills, cuts = search.restarts["kill"], search.restarts["power-cut"]
    return f"{search.count} sequences with {kills} kills and {cuts} power cuts"


class _Search:
    """Counts attempts, keeps the smallest failure, and ends in time."""

    def __init__(self, make_ground: Callable[[], Ground], seed: int) -> None:
        self.make_ground, self.seed = make_ground, seed
        self.best: tuple[tuple[Operation, ...], str] | None = None
        self.count = 0
        self.restarts: Counter[str] = Counter()
        self._begin(SEARCH_S_MAX)

    def _begin(self, seconds_max: float) -> None:
        self._busy_until = time.process_time() + seconds_max
        self._real_until = time.monotonic() - queued_s() + seconds_max * CLOCK_FACTOR

    def attempt(self, steps: Sequence[Operation]) -> None:
        """Play ``steps`` unless time is up or a failure is known."""
        if self.best is not None or self._is_late():
            return
        self.count += 1
        self.restarts.update(step.kind for step in steps)
        self._fails(steps)
        if self.best is not None:
            raise CheckFailed(self.best[1])

    def shrink(self) -> None:
        """Find fewer and simpler steps that fail too: leave out halves, quarters, single ones; then simplify each."""
        self._begin(SHRINK_S_MAX)
        assert self.best is not None
        share = len(self.best[0])
        while share > 0:
            steps = self.best[0]
            cuts = [(*steps[:at], *steps[at + share :]) for at in range(len(steps) - share, -1, -max(1, share))]
            if not any(map(self._fails, cuts)):
                share //= 2
        while any(map(self._fails, _simpler(self.best[0]))):
            pass

    def _fails(self, steps: Sequence[Operation]) -> bool:
        """Play ``steps``; keep them when they fail."""
        if self._is_late():
            return False
        alive()
        try:
            play_steps(self.make_ground(), steps, self.seed)
        except CheckFailed as error:
            self.best = tuple(steps), printable(str(error))
            return True
        return False

    def _is_late(self) -> bool:
        return time.process_time() > self._busy_until or time.monotonic() - queued_s() > self._real_until


def _simpler(steps: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Give the same steps with one of them simpler: fewer chunks, less bytes, the first log."""
    for at, step in enumerate(steps):
        ways = [attrs.evolve(step, sizes=step.sizes[:-1])] if len(step.sizes) > 1 else []
        ways += [attrs.evolve(step, sizes=step.sizes[1:])] if len(step.sizes) > 1 else []
        ways += [attrs.evolve(step, sizes=(less,)) for size in step.sizes[:1] for less in SIMPLE_BYTES if less < size]
        ways += [attrs.evolve(step, log=0)] if step.log else []
        for way in ways:
            yield (*steps[:at], way, *steps[at + 1 :])


def steps_of(data: Sequence[Mapping[str, Any]]) -> list[Operation]:
    """Return the operations that a repro holds."""
    return [operation_from_data(one) for one in data]
