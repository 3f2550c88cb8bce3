"""docs/versions.md: every message on it is produced, by real files, peers and parts of another version."""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from crc32c import crc32c

import mqcore
from mqcore.abc import CONTRACT_VERSION, Capabilities, StorageContext, TransportCapabilities
from mqcore.batch import PRODUCER_BYTES, VERSION, body_checksum_of, encode_batch, validate_batch
from mqcore.config import load_config
from mqcore.errors import CorruptionError, MqcoreError, RejectedError, RemoteProtocolError, StorageError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log import LogStore, MetadataLog
from mqcore.log._identity import VERSION as IDENTITY_VERSION
from mqcore.ports import system_ports
from mqcore.protocol import VERSION_MAX, Code, Connection, Role, Welcome
from mqcore.registry import create_storage, create_transport, find, register, unregister
from mqcore_mmap import _header, _layout

PAGE = "versions.md"
WIDTH = 110
pytestmark = pytest.mark.needs("source-tree")


def shown(*errors: BaseException | str, root: Path | None = None) -> str:
    """The messages as a block of the page: paths shortened, long lines broken."""
    lines: list[str] = []
    for error in errors:
        text = re.sub(r"[0-9a-f]{32}", "8d3e...", str(error))
        if root is not None:
            text = text.replace(str(root), "/var/lib/mqcore")
        words, line = text.split(), ""
        for word in words:
            if line and len(line) + len(word) >= WIDTH:
                lines.append(line)
                line = "  "
            line += word if not line.strip() else f" {word}"
        lines.append(line)
    return "\n".join(f"    {line}" for line in lines)


async def failure_of(function: Callable[[], Awaitable[object]], kind: type[BaseException]) -> Any:
    """The error with which ``function`` ends."""
    with pytest.raises(kind) as caught:
        await function()
    return caught.value


def opening(url: str) -> Callable[[], Awaitable[None]]:
    async def open_it() -> None:
        async with mqcore.open_broker(storage=url):
            pass

    return open_it


def seal(data: bytes, end: int) -> bytes:
    """``data`` with the checksum of its first ``end`` bytes behind them."""
    return data[:end] + struct.pack("<I", crc32c(data[:end])) + data[end + 4 :]


# batches


def newer_batch() -> bytearray:
    """An intact batch of a version that does not exist yet."""
    batch = bytearray(encode_batch([b"hello"], created_ms=1, limits=Limits()))
    batch[4] = VERSION + 1
    return batch


def test_a_newer_batch_is_rejected_and_a_damaged_one_is_damage(pages: Any) -> None:
    batch = newer_batch()
    checksum_at = PRODUCER_BYTES + 24
    struct.pack_into("<I", batch, checksum_at, body_checksum_of(batch))
    with pytest.raises(RejectedError) as newer:
        validate_batch(batch, Limits())
    assert newer.value.name == "malformed-batch"
    pages.compare_block(PAGE, "batch-newer", shown(newer.value))
    batch[-1] ^= 1
    with pytest.raises(CorruptionError) as damaged:
        validate_batch(batch, Limits())
    pages.compare_block(PAGE, "batch-damaged", shown(damaged.value))


# protocol


async def connect_to(url: str) -> None:
    async with mqcore.connect(url, connect_timeout_ms=5000):
        pass


async def answer(url: str, reply: bytes, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """A server that answers each connection with ``reply``."""
    async with await create_transport(url).listen() as listener:
        task_status.started()
        while True:
            link = await listener.accept()
            stream = await link.accept_stream()
            await stream.receive_some(1000)
            await stream.send_all(reply)


def test_a_client_and_a_broker_of_other_versions(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def newer_client() -> BaseException:
        async with mqcore.open_broker(storage="memory://", listen="inproc://versions"):
            with monkeypatch.context() as patch:
                patch.setattr("mqcore.client._stream.VERSION_MIN", VERSION_MAX + 1)
                patch.setattr("mqcore.client._stream.VERSION_MAX", VERSION_MAX + 2)
                return await failure_of(lambda: connect_to("inproc://versions"), RemoteProtocolError)  # type: ignore[no-any-return]

    refused = trio.run(newer_client)
    assert refused.code == Code.VERSION  # type: ignore[attr-defined]
    pages.compare_block(PAGE, "protocol-newer-client", shown(refused))

    limits = Limits().published()
    chosen = Welcome(VERSION_MAX + 1, bytes(16), bytes(16), "node", 1, 1, bytes(16), "primary", limits)

    async def newer_broker() -> BaseException:
        async with trio.open_nursery() as nursery:
            await nursery.start(answer, "inproc://newer", welcome_of(chosen))
            error = await failure_of(lambda: connect_to("inproc://newer"), RemoteProtocolError)
            nursery.cancel_scope.cancel()
        return error  # type: ignore[no-any-return]

    pages.compare_block(PAGE, "protocol-newer-broker", shown(trio.run(newer_broker)))


def welcome_of(welcome: Welcome) -> bytes:
    """The frame of ``welcome``, as a broker sends it."""
    client, broker = Connection(Role.CLIENT, frame_bytes_max=1000), Connection(Role.BROKER, frame_bytes_max=1000)
    from mqcore.protocol import Hello

    greeting = b"".join(client.send(Hello(2, 2, "any")))
    broker.receive_buffer()[: len(greeting)] = greeting
    broker.received(len(greeting))
    broker.next_message()
    return b"".join(broker.send(welcome))


def test_something_else_that_answers_or_asks(pages: Any) -> None:
    async def other_server() -> BaseException:
        async with trio.open_nursery() as nursery:
            await nursery.start(answer, "inproc://other", b"HTTP/1.1 400 Bad Request\r\n\r\n")
            error = await failure_of(lambda: connect_to("inproc://other"), MqcoreError)
            nursery.cancel_scope.cancel()
        return error  # type: ignore[no-any-return]

    async def other_client() -> str:
        async with mqcore.open_broker(storage="memory://", listen="inproc://versions"):
            link = await create_transport("inproc://versions").connect()
            stream = await link.open_stream()
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            said = bytearray()
            while data := await stream.receive_some(1000):
                said += data
            await link.aclose()
        assert int.from_bytes(said[6:8], "little") == Code.NOT_THIS_PROTOCOL
        return said[12:].decode()

    pages.compare_block(PAGE, "protocol-other", shown(trio.run(other_server), trio.run(other_client)))


# storage


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with a topic, stopped in order."""

    async def make() -> None:
        async with mqcore.open_broker(storage=f"mmap://{tmp_path}/s", topics={"lines": {}}):
            pass

    trio.run(make)
    return tmp_path / "s"


def test_a_directory_of_another_layout_version(pages: Any, storage: Path) -> None:
    path = storage / "mqcore-mmap.layout"
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, _layout.VERSION + 1)
    path.write_bytes(seal(bytes(data), len(data) - 4))
    error = trio.run(failure_of, opening(f"mmap://{storage}"), StorageError)
    assert error.kind == "foreign"
    pages.compare_block(PAGE, "layout-newer", shown(error, root=storage))


def test_an_identity_of_another_version(pages: Any, storage: Path) -> None:
    path = next((storage / "segments").glob("identity@*"))
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data) - 511, 512):
        if data[at : at + 4] == b"MQID":
            struct.pack_into("<H", data, at + 4, IDENTITY_VERSION + 1)
            data[at : at + 512] = seal(bytes(data[at : at + 512]), 508)
    path.write_bytes(data)
    error = trio.run(failure_of, opening(f"mmap://{storage}"), StorageError)
    assert error.kind == "foreign"
    pages.compare_block(PAGE, "identity-newer", shown(error, root=storage))


@pytest.mark.parametrize(
    "record",
    [
        {"type": "quota-set", "id": "00" * 16, "bytes": 5},
        {"type": "topic-created", "id": "00" * 16, "name": "orders", "config": {"quota_ms": 5}},
    ],
    ids=["type", "key"],
)
def test_a_metadata_record_of_another_version(pages: Any, storage: Path, record: dict[str, object]) -> None:
    ports = system_ports()

    async def add() -> None:
        store = LogStore(
            create_storage(f"mmap://{storage}", StorageContext(ports=ports)),
            ports=ports, limits=Limits(), node_name="mqcore", report=lambda notice: None,
        )  # fmt: skip
        await store.open()
        await store.reign()
        await MetadataLog(store).append([record])
        await store.aclose()

    trio.run(add)
    error = trio.run(failure_of, opening(f"mmap://{storage}"), StorageError)
    assert error.kind == "foreign"
    if record["type"] == "topic-created":
        pages.compare_block(PAGE, "metadata-newer", shown(error, root=storage))
    else:
        assert "'quota-set'" in str(error)
        assert "use the mqcore that wrote it" in str(error)


def test_a_segment_of_another_version(pages: Any, storage: Path) -> None:
    path = next((storage / "segments").glob("identity@*"))
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, _header.VERSION + 1)
    path.write_bytes(seal(bytes(data), 52 + len("identity")))
    error = trio.run(failure_of, opening(f"mmap://{storage}"), CorruptionError)
    pages.compare_block(PAGE, "segment-newer", shown(error, root=storage))


# parts and configuration


@pytest.fixture
def parts_of_other_contracts() -> Iterator[None]:
    """Storages ``newer`` and ``older``: the memory storage, declaring another contract version."""
    base = find("storage", "memory")
    for name, version in (("newer", CONTRACT_VERSION + 1), ("older", CONTRACT_VERSION - 1)):
        declared = Capabilities(contract_version=version, append_level=Level.MEMORY, flush_level=Level.MEMORY)
        register("storage", name, type(name, (base,), {"capabilities": declared}))
    yield
    for name in ("newer", "older"):
        unregister("storage", name)


@pytest.mark.usefixtures("parts_of_other_contracts")
def test_parts_of_other_contracts(pages: Any) -> None:
    errors = [trio.run(failure_of, opening(f"{name}://"), MqcoreError) for name in ("newer", "older")]
    pages.compare_block(PAGE, "contract", shown(*errors))


def test_a_transport_of_another_contract_is_refused_too() -> None:
    base = find("transports", "inproc")
    declared = attrs.evolve(TransportCapabilities(), contract_version=CONTRACT_VERSION + 1)
    register("transports", "newer", type("Newer", (base,), {"capabilities": declared}))
    try:
        with pytest.raises(MqcoreError, match="transport 'newer' is written for a newer contract"):
            create_transport("newer://x")
    finally:
        unregister("transports", "newer")


def test_keys_of_another_release(pages: Any, tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    errors = []
    for text in ('storage = "memory://"\n[topics.orders]\nquota = "7 d"\n', 'storage = "memory://"\n[quotas]\n'):
        path.write_text(text)
        with pytest.raises(MqcoreError) as caught:
            load_config(path)
        errors.append(str(caught.value).replace(str(path), "broker.toml"))
    with pytest.raises(MqcoreError) as caught:
        load_config(overrides={"storage": "memory://"}, environment={"MQCORE_QUOTA": "1"})
    pages.compare_block(PAGE, "configuration", shown(*errors, caught.value))


def test_the_versions_in_the_table_are_those_of_the_code(pages: Any) -> None:
    told = {
        what: version for what, version in re.findall(r"(?m)^\| \[?([\w ]+)(?:\][^|]*)? \| (\d+) \|", pages.text(PAGE))
    }
    assert told == {
        "batch": str(VERSION),
        "protocol": str(VERSION_MAX),
        "storage layout": str(_layout.VERSION),
        "identity": str(IDENTITY_VERSION),
        "contracts": str(CONTRACT_VERSION),
    }
