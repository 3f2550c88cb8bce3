"""``mqcore demo``: real text through a real broker, SIGKILL in the middle of the stream, and what is left of it."""

from __future__ import annotations

import logging
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqcore.cli.shell import Verb, current, end, make_folder, output_options, run_async, write_json, write_line
from mqcore.units import grouped

if TYPE_CHECKING:
    import trio

    from mqcore.cli._child_broker import ChildBroker
    from mqcore.cli._ledger import Ledger
    from mqcore.client import Client

__all__ = ["command"]

PARTITIONS = 4
POST_MESSAGES = 4_000
"""Lines handed to the producer at a time."""
SECONDS_BEFORE_KILL = 2.0
SECONDS_AFTER_RECOVERY = 1.0
DAMAGE_FOUND = 5


@click.command("demo", cls=Verb, examples=["mqcore demo", "mqcore demo --output json | jq .recovery", "make demo"])
@click.option(
    "--to",
    metavar="DIR",
    help="Where to store: a folder is made there, and removed. Made if missing.",
)
@output_options
def command(to: str | None) -> None:
    """Show in less than a minute what mqcore promises, and that it holds.

    A broker with file storage, a TCP and a Unix listener takes every line of Python's standard library and gives it
    back through both. Then it is killed with SIGKILL in the middle of a stream and started again, and everything that
    was acknowledged is compared with what is there. Then a set of three loses its primary in the same way, under
    synchronous and under asynchronous replication. Status 5 when anything is missing, different or invented, or when
    more is lost than was promised.
    """
    if to is not None:
        make_folder(to)
    with only_errors_logged():  # that the connection breaks is the point of it
        good = _demonstrate_in(to)
    if not good:
        end(DAMAGE_FOUND)


@contextmanager
def only_errors_logged() -> Iterator[None]:
    """Keep the library's warnings quiet for the length of the block."""
    logger = logging.getLogger("mqcore")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _demonstrate_in(to: str | None) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="mqcore-demo-", dir=to))
    try:
        return run_async(_demonstrate, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(text: str, event: str, **facts: object) -> None:
    if current().json:
        write_json({"event": event, **facts})
    else:
        write_line(text)


def _library() -> list[bytes]:
    """Every line of the Python sources of the standard library."""
    lines: list[bytes] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts and "dist-packages" not in path.parts:
            lines += path.read_bytes().splitlines()
    return lines


def _posts(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(lines), POST_MESSAGES):
        yield lines[start : start + POST_MESSAGES]


def _rate(messages: int, size: int, seconds: float) -> str:
    return f"{seconds:.2f} s, {grouped(round(messages / seconds))} messages/s, {size / seconds / 1e6:.0f} MB/s"


async def _demonstrate(folder: Path) -> bool:
    import mqcore
    from mqcore.cli._child_broker import ChildBroker
    from mqcore.cli._demo_set import demonstrate_set

    storage = f"mmap://{folder}/storage"
    _explain(storage)
    lines = _library()
    size = sum(map(len, lines))
    broker = ChildBroker(storage, ["tcp://127.0.0.1:0", f"unix://{folder}/demo.sock"])
    try:
        seconds = await broker.start()
        urls = ", ".join(broker.urls)
        _say(f"broker started in {seconds:.2f} s: {urls}", "started", seconds=seconds, urls=broker.urls)
        async with mqcore.connect(*broker.urls, retry_ms_max=100) as client:
            good = await _publish_and_read(client, broker, lines, size)
            good = await _kill_in_the_middle(client, broker, lines) and good
    finally:
        await broker.stop()
    good = await _verify(storage) and good
    good = await demonstrate_set(folder / "set", list(_posts(lines)), _say) and good
    text = "everything acknowledged is there, and nothing else" if good else "NOT everything is as it should be"
    _say(f"\n{text}", "result", good=good)
    return good


def _explain(storage: str) -> None:
    from mqcore.cli._build_options import compose, explanation_of

    explanation = explanation_of(compose(None, {"storage": storage, "flush": "sync"}))
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    _say("\n".join([*explanation.lines(width), ""]), "promises", build=explanation.as_json())


async def _publish_and_read(client: Client, broker: ChildBroker, lines: list[bytes], size: int) -> bool:
    """Publish every line once, read all of it through every transport, and compare."""
    import trio

    import mqcore
    from mqcore.cli._demo_read import counts, read_all, verdict
    from mqcore.cli._ledger import Ledger

    await client.admin.create_topic("library", PARTITIONS)
    ledger, started = Ledger(), trio.current_time()
    async with client.producer("library") as producer:
        for values in _posts(lines):
            await producer.wait_for_room(sum(map(len, values)))
            ledger.add(values, producer.post_many(values))
            await trio.lowlevel.checkpoint()
        await ledger.wait()
    seconds = trio.current_time() - started
    _say(
        f"published {grouped(len(lines))} lines of Python's standard library, each acknowledged: "
        f"{_rate(len(lines), size, seconds)}",
        "published", messages=len(lines), bytes=size, seconds=seconds,
    )  # fmt: skip
    good = True
    for url in broker.urls:
        async with mqcore.connect(url) as reader:
            seconds, comparison = await read_all(reader, "library", ledger)
        rate = _rate(comparison.read, size, seconds)
        _say(
            f"read back through {url.partition(':')[0]}: {rate}; {verdict(comparison)}",
            "read", url=url, seconds=seconds, **counts(comparison),
        )  # fmt: skip
        good = good and comparison.is_good
    return good


async def _kill_in_the_middle(client: Client, broker: ChildBroker, lines: list[bytes]) -> bool:
    """Stream the text over and over, kill the broker, start it again, go on, then read and compare everything."""
    import trio

    from mqcore.cli._demo_read import counts, read_all, verdict
    from mqcore.cli._ledger import Ledger

    await client.admin.create_topic("stream", PARTITIONS)
    ledger, enough = Ledger(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stream, client, lines, ledger, enough)
        await trio.sleep(SECONDS_BEFORE_KILL)
        acknowledged, posted = ledger.settle(), ledger.posted
        await broker.kill()
        killed_at = trio.current_time()
        _say(
            f"SIGKILL in the middle of the stream: {grouped(acknowledged)} messages acknowledged, "
            f"{grouped(posted - acknowledged)} on their way",
            "killed", acknowledged=acknowledged, posted=posted,
        )  # fmt: skip
        ready_seconds = await broker.start()
        await ledger.wait_for_next()
        first_seconds = trio.current_time() - killed_at
        _say(
            f"started again: ready after {ready_seconds:.2f} s, recovery included; the stream goes on "
            f"{first_seconds:.2f} s after the kill",
            "recovery", ready_seconds=ready_seconds, first_acknowledgement_seconds=first_seconds,
        )  # fmt: skip
        await trio.sleep(SECONDS_AFTER_RECOVERY)
        enough.set()
    seconds, comparison = await read_all(client, "stream", ledger)
    _say(
        f"read {grouped(comparison.read)} messages back; {grouped(ledger.acknowledged)} were acknowledged before and "
        f"after the kill: {verdict(comparison)}",
        "compared", acknowledged=ledger.acknowledged, seconds=seconds, **counts(comparison),
    )  # fmt: skip
    return comparison.is_good


async def _stream(client: Client, lines: list[bytes], ledger: Ledger, enough: trio.Event) -> None:
    """Publish the text again and again until it is enough, then wait for every acknowledgement."""
    import trio

    async with client.producer("stream") as producer:
        while not enough.is_set():
            for values in _posts(lines):
                await producer.wait_for_room(sum(map(len, values)))
                ledger.add(values, producer.post_many(values))
                await trio.lowlevel.checkpoint()
                if enough.is_set():
                    break
        await ledger.wait()


async def _verify(storage: str) -> bool:
    """Check every header and checksum of what the broker left behind."""
    from mqcore.abc import StorageContext
    from mqcore.log import verify_storage
    from mqcore.ports import system_ports
    from mqcore.registry import create_storage

    backend = create_storage(storage, StorageContext(ports=system_ports()))
    findings = [finding async for finding in verify_storage(backend)]
    size = sum(finding.bytes_total for finding in findings)
    sound = all(finding.is_sound for finding in findings)
    _say(
        f"verified the files of the stopped broker: {len(findings)} logs, {size / 1e6:.0f} MB, "
        f"{'no damage' if sound else 'DAMAGE'}",
        "verified", logs=len(findings), bytes=size, sound=sound,
    )  # fmt: skip
    return sound
