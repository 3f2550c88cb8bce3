"""mqcore quarantine: what was cut from a log is listed, shown, sent again without duplicates, deleted; R5 and G10."""

from __future__ import annotations

import json
import signal

import pytest
import trio

from mqcore.abc import StorageContext
from mqcore.ports import system_ports
from mqcore.registry import create_storage

LINES = [b"first", b"second", b"second", b"fourth \xc3\xa4"]


@pytest.fixture
def storage(tmp_path):
    return f"mmap://{tmp_path}/a"


def run_until_stopped(serve, storage):
    return serve("--storage", storage, "--listen", "tcp://127.0.0.1:0")


def stop(served):
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(30)


@pytest.fixture
def kept(serve, cli, storage, tmp_path):
    """A storage with a topic ``orders``, and its messages kept aside under epoch 7: those of the log are deleted."""
    broker = run_until_stopped(serve, storage)
    (tmp_path / "lines").write_bytes(b"\n".join(LINES))
    for name in ("orders", "other"):
        assert cli("--server", broker.urls[0], "topic", "create", name).status == 0
    assert cli("--server", broker.urls[0], "produce", "orders", tmp_path / "lines", "--tag", "paid").status == 0
    stop(broker)

    async def keep() -> str:
        backend = create_storage(storage, StorageContext(ports=system_ports()))
        await backend.open()
        (name,) = [each for each in await backend.list_logs() if each.endswith("-0") and "." not in each]
        log = await backend.open_log(name)
        data = bytes(await log.read(0, log.end))
        side_name = f"{name}.quarantine-7-0"
        side = await backend.open_log(side_name)
        await side.append([json.dumps({"log": name, "reason": "another reign has not got it"}).encode() + b"\n"])
        await side.append([data + b"no batch"])
        await backend.flush([side])
        await backend.aclose()
        return side_name

    return trio.run(keep)


def listed(run, *arguments):
    result = run("quarantine", "list", "--output", "json", *arguments)
    assert (result.status, result.err) == (0, "")
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.mark.parametrize("beside_broker", [False, True])
def test_what_is_kept_aside_is_listed_and_shown_offline_and_by_the_broker(kept, storage, cli, serve, beside_broker):
    if beside_broker:
        where = ["--server", run_until_stopped(serve, storage).urls[0]]
    else:
        where = ["--storage", storage]
    (found,) = listed(cli, *where)
    assert found["name"] == kept
    assert (found["topic"], found["partition"], found["epoch"]) == ("orders", 0, 7)
    assert (found["messages"], found["first_offset"], found["end_offset"]) == (4, 0, 4)
    assert found["unreadable_bytes"] == len(b"no batch")
    shown = cli("quarantine", "show", kept, *where)
    assert shown.status == 0
    assert shown.out.encode().splitlines() == LINES
    assert "8 bytes are no batches" in shown.err
    shown = cli("quarantine", "show", kept, "--output", "json", *where)
    assert [json.loads(line)["offset"] for line in shown.out.splitlines()] == [0, 1, 2, 3]
    assert {json.loads(line)["tag"] for line in shown.out.splitlines()} == {"paid"}
    table = cli("quarantine", "list", *where)
    assert "orders/0" in table.out


def test_r5_a_replay_skips_what_the_log_holds_and_what_an_earlier_replay_has_sent(kept, storage, cli, serve):
    server = ["--server", run_until_stopped(serve, storage).urls[0]]
    replayed = cli("quarantine", "replay", kept, *server)
    assert replayed.out == "sent 0 messages to orders/0; skipped 4 that the log has already\n"
    for sent in (4, 0):
        replayed = cli("quarantine", "replay", kept, "--topic", "other", "--output", "json", *server)
        assert json.loads(replayed.out) == {"topic": "other", "partition": 0, "sent": sent, "skipped": 4 - sent}
    read = cli("consume", "other", "--from", "start", "--exit-at-end", "--tag", "paid", *server)
    assert read.out.encode().splitlines() == LINES, "equal messages are as many as they were"
    assert len(listed(cli, *server)) == 1, "a replay deletes nothing"


def test_it_is_deleted_by_an_operator_only_and_then_gone(kept, storage, cli, serve):
    refused = cli("quarantine", "delete", kept, "--storage", storage)
    assert (refused.status, "add --yes" in refused.err) == (2, True)
    broker = run_until_stopped(serve, storage)
    beside = cli("quarantine", "delete", kept, "--yes", "--storage", storage)
    assert (beside.status, "a broker runs on" in beside.err) == (1, True)
    deleted = cli("quarantine", "delete", kept, "--yes", "--server", broker.urls[0])
    assert deleted.out.startswith(f"deleted {kept}, ")
    assert listed(cli, "--server", broker.urls[0]) == []
    gone = cli("quarantine", "show", kept, "--server", broker.urls[0])
    assert (gone.status, "nothing called" in gone.err) == (2, True)


def test_it_is_deleted_offline_too(kept, storage, cli):
    assert cli("quarantine", "delete", kept, "--yes", "--storage", storage).status == 0
    assert listed(cli, "--storage", storage) == []
