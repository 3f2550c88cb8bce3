"""mqcore storage migrate, backup and restore as a user types them: a broker that serves, kill -9, a disk that fills."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time

import pytest

LINES = [f"message {number:05}" for number in range(3000)]


@pytest.fixture
def stored(serve, cli, tmp_path):
    """A running broker with two topics, its storage and what was published to it."""
    storage = f"mmap://{tmp_path}/a"
    broker = serve("--storage", storage, "--listen", "tcp://127.0.0.1:0", "--flush", "sync", "--name", "n1")
    (tmp_path / "lines").write_text("\n".join(LINES))
    for name in ("lines", "empty"):
        assert cli("--server", broker.urls[0], "topic", "create", name, "--partitions", "3").status == 0
    assert cli("--server", broker.urls[0], "produce", "lines", tmp_path / "lines").status == 0
    return broker, storage


def stop(broker):
    broker.process.send_signal(signal.SIGTERM)
    assert broker.process.wait(30) == 0


def consumed(cli, broker):
    result = cli("--server", broker.urls[0], "consume", "lines", "--from", "start", "--exit-at-end")
    assert result.status == 0, result.err
    return sorted(result.out.splitlines())


def summary(result):
    assert result.status == 0, result.err
    return json.loads(result.out.splitlines()[-1])["summary"]


def served_from(serve, storage):
    return serve("--storage", storage, "--listen", "tcp://127.0.0.1:0", "--flush", "sync", "--name", "n1")


def test_tags_are_read_by_the_broker_after_a_move_to_an_array_and_the_loss_of_a_member(serve, cli, tmp_path):
    storage, members = f"mmap://{tmp_path}/tagged", [tmp_path / "t1", tmp_path / "t2"]
    target = f"raid://{members[0]},{members[1]}?level=1"
    broker = served_from(serve, storage)
    assert cli("--server", broker.urls[0], "topic", "create", "jobs").status == 0
    for number, tag in enumerate("xyxy"):
        (tmp_path / "job").write_text(f"job-{number}\n")
        sent = cli("--server", broker.urls[0], "produce", "jobs", tmp_path / "job", "--tag", tag)
        assert sent.status == 0, sent.err
    stop(broker)
    assert summary(cli("storage", "migrate", storage, target, "--output", "json"))["messages"] == 4
    shutil.rmtree(members[0])
    after = served_from(serve, target)
    found = cli("--server", after.urls[0], "consume", "jobs", "--from", "start", "--exit-at-end", "--tag", "y")
    assert (found.status, found.out.split()) == (0, ["job-1", "job-3"]), found.err
    stop(after)


def test_a_storage_moves_to_an_array_and_the_broker_goes_on_there(stored, serve, cli, tmp_path):
    broker, storage = stored
    target = f"raid://{tmp_path}/r1,{tmp_path}/r2?level=1"
    busy = cli("storage", "migrate", storage, target)
    assert (busy.status, busy.out) == (1, "")
    assert "in use by its broker: stop it first" in busy.err
    stop(broker)
    moved = summary(cli("storage", "migrate", storage, target, "--output", "json"))
    assert (moved["messages"], moved["node"], moved["bytes_there_already"]) == (len(LINES), "n1", 0)
    assert cli("storage", "verify", storage).status == 0
    again = cli("storage", "migrate", storage, target)
    assert again.status == 1
    assert "not empty" in again.err
    after = served_from(serve, target)
    assert consumed(cli, after) == LINES
    assert broker.events[0]["storage"] != after.events[0]["storage"]


def test_a_backup_of_a_broker_that_serves_is_restored_and_what_came_later_is_not_in_it(stored, serve, cli, tmp_path):
    broker, storage = stored
    server = ("--server", broker.urls[0])
    taken = summary(cli(*server, "storage", "backup", tmp_path / "b", "--output", "json"))
    assert (taken["messages"], taken["beside_broker"]) == (len(LINES), True)
    assert cli(*server, "storage", "backup", tmp_path / "b").status == 1
    (tmp_path / "lines").write_text("later")
    assert cli(*server, "produce", "lines", tmp_path / "lines").status == 0
    stop(broker)
    back = summary(cli("storage", "restore", tmp_path / "b", f"mmap://{tmp_path}/c", "--output", "json"))
    assert back["messages"] == len(LINES)
    assert consumed(cli, served_from(serve, f"mmap://{tmp_path}/c")) == LINES
    stopped = summary(cli("storage", "backup", tmp_path / "d", "--storage", storage, "--output", "json"))
    assert (stopped["messages"], stopped["beside_broker"]) == (len(LINES) + 1, False)


@pytest.mark.parametrize("seed", range(3))
def test_a_migration_killed_anywhere_is_refused_by_brokers_and_goes_on(
    stored, serve, cli, mqcore_command, tmp_path, seed
):
    broker, storage = stored
    stop(broker)
    target = f"mmap://{tmp_path}/c"
    moving = mqcore_command.start("storage", "migrate", storage, target)
    segments = tmp_path / "c" / "segments"
    wanted = random.Random(seed).randrange(1, 6)
    while moving.poll() is None and len(list(segments.glob("*")) if segments.is_dir() else []) < wanted:
        time.sleep(0.001)
    moving.kill()
    moving.communicate()
    was_complete = moving.returncode == 0
    result = cli("storage", "migrate", storage, target)
    assert result.status == 0 or (was_complete or "not empty" in result.err)
    assert consumed(cli, served_from(serve, target)) == LINES


def test_bad_input_is_one_line_that_names_it(cli, tmp_path):
    a = f"mmap://{tmp_path}/a"
    for arguments, message in (
        (("migrate", a, a), "are the same storage"),
        (("migrate", "memory://", a), "keeps nothing beyond the process"),
        (("migrate", a, "null://"), "keeps nothing beyond the process"),
        (("migrate", a, f"mmap://{tmp_path}/b"), "a"),
        (("backup", tmp_path / "b", "--storage", a), "a"),
        (("restore", tmp_path, a), "no finished backup"),
        (("backup", tmp_path / "x" / "y", "--storage", a), "a"),
    ):
        result = cli("storage", *arguments)
        assert result.status in (1, 2), arguments
        assert message in result.err, arguments
        assert len(result.err.splitlines()) == 1, result.err
    assert not list(tmp_path.iterdir())
