"""A broker on a mirror that loses a member: what it still acknowledges, by what was said and promised (0020)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from array_parts import Bench

import mqcore
from mqcore.cli.serve import _introduce
from mqcore.errors import RefusedError, RejectedError
from mqcore.guarantees import Level
from mqcore.testing import model_ports, run_beside_broker

WAITS_MS = 30_000
"""Of virtual time: a refusal is repeated for so long, and is the sender's then."""
TOPICS = {"lines": {"partitions": 1}}


def run(bench: Bench, main: Callable[..., Awaitable[None]], **keys: Any) -> None:
    settings = {
        "storage": bench.url,
        "ports": model_ports(1, bench.disk),
        "topics": TOPICS,
        "flush": "sync",
        "report": bench.notices.append,
    }
    run_beside_broker(main, **{**settings, **keys})


PROMISED = {"survive": ["disk-loss", "power-cut"]}


def test_a_mirror_meets_the_promise_and_stripes_do_not():
    async def nothing(broker):
        pass

    run(Bench(), nothing, **PROMISED)
    with pytest.raises(RefusedError, match="disk-loss"):
        run(Bench(options="level=0"), nothing, **PROMISED)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ("level=1", PROMISED),
        ("level=1&on_degraded=read-only", {}),
        ("level=1&on_degraded=require-sync-replication", {}),
        ("level=1&on_degraded=require-sync-replication", {"flush": "async"}),
    ],
    ids=["promised", "read-only", "require-sync-replication", "and-async-flush"],
)
def test_it_stops_acknowledging_and_says_the_remedy_and_goes_on_when_it_is_whole(options, keys):
    bench = Bench(options=options)

    async def main(broker):
        async with mqcore.connect(broker.urls[0]) as client:
            async with client.producer("lines", delivery_timeout_ms=WAITS_MS) as producer:
                assert (await producer.send(b"whole")).level >= Level.PAGE_CACHE
                bench.take_away("/b")
                await broker.operate("raid", "eject", {"member": "/b"})
                with pytest.raises(RejectedError, match=r"degraded.*replace.*on_degraded=continue") as caught:
                    await producer.send(b"refused")
                assert caught.value.name == "storage-degraded"
                await broker.operate("raid", "rebuild", {"member": "/b"})
                await producer.send(b"whole again")
            async with client.consumer("lines", start="start") as consumer:
                found = [bytes((await anext(consumer)).value) for _ in range(2)]
            assert found == [b"whole", b"whole again"]
        broker.stop()

    run(bench, main, **keys)


def test_what_was_under_way_when_the_member_vanished_is_acknowledged_when_the_mirror_is_whole_again():
    bench = Bench()

    async def main(broker):
        async with (
            mqcore.connect(broker.urls[0]) as client,
            client.producer("lines", delivery_timeout_ms=WAITS_MS) as producer,
        ):
            assert (await producer.send(b"whole")).level is Level.MIRROR
            bench.take_away("/b")
            receipts = []

            async def send() -> None:
                receipts.append(await producer.send(b"under way"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while "level-too-low" not in bench.kinds():  # noqa: ASYNC110 - a notice has no event
                    await trio.sleep(0.01)
                await trio.sleep(5)
                assert not receipts, "acknowledged on one disk, where the build promised two"
                await broker.operate("raid", "rebuild", {"member": "/b"})
            assert receipts[0].level is Level.MIRROR
            assert bench.kinds().count("level-too-low") == 1
        broker.stop()

    run(bench, main, **PROMISED)


def test_continue_goes_on_with_receipts_that_state_disk_and_a_status_that_says_degraded():
    bench = Bench(options="level=1&on_degraded=continue")

    async def main(broker):
        async with (
            mqcore.connect(broker.urls[0]) as client,
            client.producer("lines", delivery_timeout_ms=WAITS_MS) as producer,
        ):
            assert (await producer.send(b"whole")).level is Level.MIRROR
            bench.take_away("/b")
            assert (await producer.send(b"degraded")).level is Level.DISK
            storage = (await client.admin.status()).storage
            assert storage["degraded"]
            assert [each["state"] for each in storage["members"]] == ["in-sync", "ejected"]
            assert "raid-member-ejected" in bench.kinds()
        broker.stop()

    run(bench, main, **PROMISED)


def test_a_broker_that_starts_degraded_and_read_only_serves_and_moves_cursors():
    bench = Bench(options="level=1&on_degraded=read-only")

    async def first(broker):
        async with (
            mqcore.connect(broker.urls[0]) as client,
            client.producer("lines", delivery_timeout_ms=WAITS_MS) as producer,
        ):
            await producer.send(b"kept")
        broker.stop()

    async def second(broker):
        async with mqcore.connect(broker.urls[0]) as client:
            async with client.consumer("lines", start="start") as consumer:
                assert bytes((await anext(consumer)).value) == b"kept"
            async with client.producer("lines", delivery_timeout_ms=WAITS_MS) as producer:
                with pytest.raises(RejectedError, match="degraded"):
                    await producer.send(b"no")
        broker.stop()

    run(bench, first)
    bench.take_away("/a")
    run(bench, second, ports=model_ports(2, bench.disk))


@pytest.mark.parametrize(("degraded", "words"), [(True, " once the storage is whole again"), (False, ": ")])
def test_a_start_on_a_degraded_array_does_not_promise_what_the_whole_one_does(degraded, words):
    told = []
    storage = {"degraded": degraded, "groups": ["disk"], "scrub": {"is_running": False}}
    _introduce(
        SimpleNamespace(status=lambda: {"storage": storage}, urls=[]),
        SimpleNamespace(tables=[], storage="raid:///a,/b", flush_sentence="flush policy sync"),
        SimpleNamespace(say=lambda text, record: told.append(text)),
    )
    assert any(text.startswith(f"lost after an acknowledgement{words}") for text in told)
    assert not any("is_running" in text for text in told), "what a scrub found is the status's to say"
