"""A set as a user runs it: begun by one command, its primary killed with SIGKILL in mid-stream, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading

import pytest

pytestmark = pytest.mark.slow
SECONDS_MAX = 60
LINES = 100_000


class Here:
    """``mqcore serve --cluster-here``: its events as they come."""

    def __init__(self, process):
        self.process = process
        self.events = []
        self.came = threading.Condition()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.came:
                self.events.append(json.loads(line))
                self.came.notify_all()

    def event(self, kind, node=None):
        """Wait for an event of this kind (and node), and return it."""

        def found():
            return [each for each in self.events if each.get("event") == kind and node in (None, each.get("node"))]

        with self.came:
            assert self.came.wait_for(found, SECONDS_MAX), [self.events, self.process.poll()]
        return found()[-1]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(SECONDS_MAX)
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return status


@pytest.fixture
def here(mqcore_command, tmp_path):
    run = Here(
        mqcore_command.start("--output", "json", "serve", "--cluster-here", "3", "--storage", f"mmap://{tmp_path}/set")
    )
    yield run
    run.end()


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_g01_a_primary_killed_in_mid_stream_is_succeeded_and_what_was_sent_is_there_once(here, mqcore_command):
    servers = ",".join(here.event("ready")["urls"])
    assert here.event("set")["primary"] == "a", "the first node is asked to begin it"
    pids = {name: here.event("node", name)["pid"] for name in "abc"}

    def run(*arguments):
        done = mqcore_command(*arguments, MQCORE_SERVER=servers)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("topic", "create", "orders", "--partitions", "4", "--replication", "sync", "--copies", "2", "--level", "disk")
    sent = [b"line %d\n" % number for number in range(LINES)]
    producing = mqcore_command.start("produce", "orders", stdin=subprocess.PIPE, MQCORE_SERVER=servers)
    producing.stdin.writelines(sent[: LINES // 2])
    producing.stdin.flush()

    def committed():
        described = json.loads(run("topic", "describe", "orders", "--output", "json"))
        return sum(each["committed_offset"] for each in described["logs"])

    while not committed():  # until it is in mid-stream
        assert producing.poll() is None
    os.kill(pids["a"], signal.SIGKILL)
    assert here.event("ended", "a")["status"] == -signal.SIGKILL
    _, err = producing.communicate(b"".join(sent[LINES // 2 :]), timeout=SECONDS_MAX)
    assert producing.returncode == 0, err
    (own,) = json.loads(run("cluster", "describe", "--output", "json"))["sets"]
    assert own["primary"]["name"] in ("b", "c")
    assert own["epoch"] > 1
    assert {member["name"] for member in own["members"] if member["in_sync"]} == {"b", "c"}
    new, old = own["epoch"], own["primary"]["name"]
    handed = json.loads(run("cluster", "switchover", "--output", "json"))
    assert (handed["primary"]["name"], handed["epoch"]) == (({"b", "c"} - {old}).pop(), new + 1)
    read = run("consume", "orders", "--from", "start", "--exit-at-end")
    assert sorted(read.splitlines(keepends=True)) == sorted(sent)
    assert here.end() == 130
    assert not any(map(is_running, pids.values())), "a node outlived the command"


def test_a_set_that_was_ended_goes_on_when_it_is_run_again(here, mqcore_command, tmp_path):
    servers = ",".join(here.event("ready")["urls"])
    done = mqcore_command("topic", "create", "kept", MQCORE_SERVER=servers)
    assert done.returncode == 0, done.stderr
    assert here.end() == 130
    again = Here(
        mqcore_command.start("--output", "json", "serve", "--cluster-here", "3", "--storage", f"mmap://{tmp_path}/set")
    )
    try:
        servers = ",".join(again.event("ready")["urls"])
        listed = mqcore_command("topic", "list", MQCORE_SERVER=servers)
        assert b"kept" in listed.stdout, listed.stderr
    finally:
        again.end()
