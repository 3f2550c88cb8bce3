"""The storage contract against a model that is a bytes object, for every backend that keeps bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.errors import CommandNotPossibleError, ConfigurationError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.url import Url
from mqcore_memory import MemoryStorage
from mqcore_mmap import MmapStorage
from mqcore_null import NullStorage

SEGMENT = 16 * 1024
NAMES = ("a", "b.1", "c-2", "d_3")


def make_memory(_: str) -> StorageBackend:
    options = MemoryStorage.options_class(arena_bytes_max=SEGMENT)
    return MemoryStorage(Url.parse("memory://"), options, StorageContext(ports=system_ports(7)))


def make_mmap(root: str) -> StorageBackend:
    options = MmapStorage.options_class(
        segment_bytes=SEGMENT,
        first_extent_bytes=4096,
        extent_bytes_max=8192,
        ready_segments_max=2,
        journal_bytes=128 * 1024,
        journal_range_bytes_max=8 * 1024,
        open_files_max=8,
    )
    return MmapStorage(Url.parse(f"mmap://{root}/s"), options, StorageContext(ports=system_ports(7)))


BACKENDS = [pytest.param(make_memory, id="memory"), pytest.param(make_mmap, id="mmap")]


@attrs.define
class Model:
    """What a log must hold: ``start`` is where it may begin at the latest, ``data`` all bytes from position 0."""

    data: bytearray = attrs.field(factory=bytearray)
    start: int = 0


edges = st.sampled_from([SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT])
sizes = st.one_of(st.integers(0, 40), st.integers(1, 9000), edges)
names = st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(st.just("append"), names, st.lists(sizes, max_size=3)),
    st.tuples(st.just("append"), names, st.lists(sizes, max_size=3)),
    st.tuples(st.just("flush"), st.lists(names, unique=True)),
    st.tuples(st.just("read"), names, st.floats(0, 1), sizes),
    st.tuples(st.just("truncate"), names, st.floats(0, 1)),
    st.tuples(st.just("trim"), names, st.floats(0, 1)),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("close"), names),
    st.tuples(st.just("reopen")),
)


class Machine:
    """Carries steps out on a backend and on models and compares them after each."""

    def __init__(self, make: Callable[[str], StorageBackend], root: str) -> None:
        self.make = make
        self.root = root
        self.backend = make(root)
        self.models = {name: Model() for name in NAMES}
        self.byte = 0
        self.views: list[tuple[memoryview, bytes]] = []

    async def log(self, name: str) -> Log:
        return await self.backend.open_log(name)

    async def append(self, name: str, parts: list[int]) -> None:
        self.byte += 1
        chunks = [bytes([(self.byte + index) % 251 + 1]) * size for index, size in enumerate(parts)]
        log, model = await self.log(name), self.models[name]
        assert await log.append([memoryview(chunk) for chunk in chunks]) == len(model.data)
        model.data += b"".join(chunks)

    async def flush(self, chosen: list[str]) -> None:
        logs = [await self.log(name) for name in chosen]
        assert [each.end for each in await self.backend.flush(logs)] == [len(self.models[name].data) for name in chosen]

    async def read(self, name: str, where: float, size: int) -> None:
        log, model = await self.log(name), self.models[name]
        position = log.start + int(where * (log.end - log.start))
        view = await log.read(position, size)
        expected = bytes(model.data[position : position + size])
        assert view.readonly
        assert expected.startswith(view)
        assert len(view) or not expected
        self.views.append((view, bytes(view)))

    async def truncate(self, name: str, where: float) -> None:
        log, model = await self.log(name), self.models[name]
        self.views.clear()
        position = log.start + int(where * (log.end - log.start))
        await log.truncate(position)
        del model.data[position:]

    async def trim(self, name: str, where: float) -> None:
        log, model = await self.log(name), self.models[name]
        position = int(where * log.end)
        start = await log.trim(position)
        assert start == log.start
        assert model.start <= start <= max(position, model.start)
        model.start = start

    async def delete(self, name: str) -> None:
        log = await self.log(name)
        await self.backend.delete_log(name)
        with pytest.raises(StorageError, match="closed"):
            await log.append([b"x"])
        self.models[name] = Model()

    async def close(self, name: str) -> None:
        log = await self.log(name)
        await log.aclose()
        await log.aclose()
        with pytest.raises(StorageError, match="closed"):
            await log.read(log.start, 1)

    async def reopen(self) -> None:
        if isinstance(self.backend, MemoryStorage):
            return
        await self.backend.aclose()
        self.backend = self.make(self.root)
        await self.backend.open()
        for name in NAMES:
            log = await self.log(name)
            assert log.durable_end == log.end

    async def check(self) -> None:
        for name, model in self.models.items():
            log = await self.log(name)
            assert (log.start, log.end) == (model.start, len(model.data))
            assert log.durable_end <= log.end
        assert [name for name in await self.backend.list_logs() if len(self.models[name].data)] == sorted(
            name for name, model in self.models.items() if model.data
        )
        for view, content in self.views:
            assert view == content

    async def check_content(self) -> None:
        for name, model in self.models.items():
            log = await self.log(name)
            position = log.start
            while position < log.end:
                view = await log.read(position, 1 << 20)
                assert view == model.data[position : position + len(view)]
                position += len(view)


@pytest.mark.parametrize("make", BACKENDS)
def test_a_log_is_the_bytes_that_were_appended_to_it(make: Callable[[str], StorageBackend]) -> None:
    @settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.lists(steps, max_size=30))
    def run(program: list[tuple[Any, ...]]) -> None:
        root = tempfile.mkdtemp(prefix="mqcore-")

        async def main() -> None:
            machine = Machine(make, root)
            await machine.backend.open()
            try:
                for step in program:
                    method: Callable[..., Awaitable[None]] = getattr(machine, step[0])
                    await method(*step[1:])
                    await machine.check()
                await machine.check_content()
            finally:
                machine.views.clear()
                await machine.backend.aclose()

        try:
            trio.run(main)
        finally:
            shutil.rmtree(root)

    run()


def run_with(
    make: Callable[[str], StorageBackend], root: str, body: Callable[[StorageBackend], Awaitable[None]]
) -> None:
    async def main() -> None:
        backend = make(root)
        await backend.open()
        try:
            await body(backend)
        finally:
            await backend.aclose()

    trio.run(main)


@pytest.mark.parametrize("make", BACKENDS)
def test_read_outside_the_log_is_a_value_error(make: Callable[[str], StorageBackend], tmp_path: Any) -> None:
    async def body(backend: StorageBackend) -> None:
        log = await backend.open_log("a")
        await log.append([b"abc"])
        assert bytes(await log.read(3, 10)) == b""
        for position in (-1, 4):
            with pytest.raises(ValueError, match="outside the log"):
                await log.read(position, 1)

    run_with(make, str(tmp_path), body)


@pytest.mark.parametrize("make", BACKENDS)
@pytest.mark.parametrize("name", ["", "A", "a/b", "..", ".a", "a b", "a@1", "+a", "a\n", "é", "x" * 129])
def test_a_log_name_that_could_not_be_a_file_name_is_refused(
    make: Callable[[str], StorageBackend], name: str, tmp_path: Any
) -> None:
    async def body(backend: StorageBackend) -> None:
        with pytest.raises(StorageError, match="log name") as caught:
            await backend.open_log(name)
        assert caught.value.kind == "limit"

    run_with(make, str(tmp_path), body)


@pytest.mark.parametrize("make", BACKENDS)
def test_the_longest_name_and_the_same_object_while_open(make: Callable[[str], StorageBackend], tmp_path: Any) -> None:
    async def body(backend: StorageBackend) -> None:
        name = "x" * backend.capabilities.log_name_bytes_max
        log = await backend.open_log(name)
        assert await backend.open_log(name) is log
        await log.append([b"1"])
        await backend.flush([log])
        assert await backend.list_logs() == [name]

    run_with(make, str(tmp_path), body)


@pytest.mark.parametrize("make", BACKENDS)
def test_an_append_above_the_limit_is_refused_before_a_byte_is_written(
    make: Callable[[str], StorageBackend], tmp_path: Any
) -> None:
    async def body(backend: StorageBackend) -> None:
        log = await backend.open_log("a")
        big = memoryview(bytes(backend.capabilities.append_bytes_max // 2 + 1))
        with pytest.raises(StorageError) as caught:
            await log.append([big, big])
        assert (caught.value.kind, caught.value.appended, log.end) == ("limit", False, 0)

    run_with(make, str(tmp_path), body)


@pytest.mark.parametrize("make", BACKENDS)
def test_a_flush_states_end_and_level_of_each_log(make: Callable[[str], StorageBackend], tmp_path: Any) -> None:
    async def body(backend: StorageBackend) -> None:
        logs = [await backend.open_log(name) for name in NAMES]
        for size, log in enumerate(logs, start=1):
            await log.append([b"x" * size])
        level = backend.capabilities.flush_level
        assert await backend.flush(logs) == [(size, level) for size in range(1, len(logs) + 1)]
        assert {log.level for log in logs} == {level}

    run_with(make, str(tmp_path), body)


@pytest.mark.parametrize("make", BACKENDS)
def test_an_operation_that_the_part_does_not_have_is_refused_by_name(
    make: Callable[[str], StorageBackend], tmp_path: Any
) -> None:
    async def body(backend: StorageBackend) -> None:
        with pytest.raises(CommandNotPossibleError, match=f"storage {backend.url.scheme} has no operation 'rebuild'"):
            await backend.operate("rebuild", {})

    run_with(make, str(tmp_path), body)


@pytest.mark.parametrize("make", BACKENDS)
def test_the_caller_may_reuse_the_buffers_of_an_append(make: Callable[[str], StorageBackend], tmp_path: Any) -> None:
    async def body(backend: StorageBackend) -> None:
        logs = [await backend.open_log(name) for name in NAMES]
        for size in (10, 100_000):
            buffer = bytearray(b"a" * size)
            for log in logs:
                await log.append([memoryview(buffer)])
            buffer[:] = b"b" * size
            await backend.flush(logs)
        for log in logs:
            assert bytes(await log.read(0, 10)) == b"a" * 10

    run_with(make, str(tmp_path), body)


def test_memory_is_full_at_its_limit_and_recovers_after_trim() -> None:
    async def main() -> None:
        options = MemoryStorage.options_class(bytes_max=64 * 1024, arena_bytes_max=16 * 1024)
        backend = MemoryStorage(Url.parse("memory://"), options, StorageContext(ports=system_ports()))
        await backend.open()
        log = await backend.open_log("a")
        for _ in range(4):
            await log.append([bytes(16 * 1024)])
        with pytest.raises(StorageError, match="bytes_max") as caught:
            await log.append([b"x"])
        assert (caught.value.kind, caught.value.retryable, caught.value.appended) == ("full", True, False)
        assert log.end == 64 * 1024
        kept = await log.read(0, 8)
        assert await log.trim(20_000) == 16 * 1024
        assert await log.append([b"x"]) == 64 * 1024
        assert bytes(kept) == bytes(8)
        await backend.aclose()

    trio.run(main)


def test_null_counts_and_keeps_nothing() -> None:
    async def main() -> None:
        backend = NullStorage(Url.parse("null://"), NullStorage.options_class(), StorageContext(ports=system_ports()))
        await backend.open()
        log = await backend.open_log("a")
        assert await log.append([b"abc", memoryview(b"de")]) == 0
        assert (log.end, log.durable_end) == (5, 5)
        assert bytes(await log.read(1, 100)) == bytes(4)
        assert [each.end for each in await backend.flush([log])] == [5]
        assert backend.capabilities.flush_level is Level.NONE
        await backend.aclose()

    trio.run(main)


@pytest.mark.parametrize(
    ("backend", "url"),
    [(MemoryStorage, "memory://x"), (NullStorage, "null://x"), (MmapStorage, "mmap://x"), (MmapStorage, "mmap:///")],
)
def test_a_url_that_names_nothing_usable_is_refused_at_composition(backend: Any, url: str) -> None:
    with pytest.raises(ConfigurationError):
        backend(Url.parse(url), backend.options_class(), StorageContext(ports=system_ports()))
