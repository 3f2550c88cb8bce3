"""``mqcore consume --on-trimmed``: what becomes of a reader whose messages retention has taken."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

TEXT = """
storage.url = "memory://"
flush.policy = "none"
listen = ["tcp://127.0.0.1:0"]
[retention]
check_interval_ms = "100 ms"
"""
LINES = 20
BATCHES = 5
PATIENCE_S = 30


@pytest.fixture(scope="module")
def broker(mqcore_command, tmp_path_factory):
    """URL of a broker whose topic ``t`` begins after offset 0, and where it begins."""
    folder = tmp_path_factory.mktemp("trimmed")
    (folder / "broker.toml").write_text(TEXT)
    process = mqcore_command.start("serve", "--config", str(folder / "broker.toml"), "--output", "json")
    try:
        events = map(json.loads, process.stdout)
        url = next(event for event in events if event["event"] == "ready")["urls"][0]
        ask = partial(mqcore_command, MQCORE_SERVER=url)
        assert ask("topic", "create", "t", "--retention-bytes", "30000").returncode == 0
        for number in range(BATCHES):
            lines = "".join(f"{number:02}{line:02}".ljust(1000, "x") + "\n" for line in range(LINES))
            assert ask("produce", "t", stdin=lines.encode()).returncode == 0
        deadline = time.monotonic() + PATIENCE_S
        start = 0
        while not start and time.monotonic() < deadline:
            described = ask("topic", "describe", "t", "--output", "json")
            assert described.returncode == 0, described.stderr
            start = json.loads(described.stdout)["logs"][0]["start_offset"]
        assert start, "retention has taken nothing"
        yield url, start
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def trimmed(broker, cli):
    """Runs a command line against it; where the topic begins stands beside it."""
    url, start = broker

    def run(*arguments):
        return cli("--server", url, *arguments)

    run.url = url
    return run, start


def consume(run, *arguments):
    done = run("consume", "t", "--from", "0", "--exit-at-end", *arguments)
    assert done.status == 0, done.err
    return done.out.splitlines(), done.err


def test_by_default_it_is_said_and_reading_goes_on(trimmed):
    run, start = trimmed
    for arguments in ((), ("--on-trimmed", "error")):
        printed, said = consume(run, *arguments)
        assert len(printed) <= LINES * BATCHES - start
        assert "were trimmed" in said


def test_earliest_goes_on_silently_at_what_there_is(trimmed):
    run, start = trimmed
    printed, said = consume(run, "--on-trimmed", "earliest")
    assert said == ""
    assert 0 < len(printed) <= LINES * BATCHES - start


def test_latest_goes_on_with_what_is_new(trimmed, mqcore_command, tmp_path):
    run, _ = trimmed
    options = ("--from", "0", "--on-trimmed", "latest", "--count", "1", "--server", run.url)
    process = mqcore_command.start("consume", "t", *options)
    new = tmp_path / "new"
    new.write_text("new\n")
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        assert run("produce", "t", new).status == 0  # until one comes after the reader has moved
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (out, err) == (b"new\n", b"")


def test_latest_and_an_end_at_what_is_there_contradict_each_other(trimmed):
    run, _ = trimmed
    done = run("consume", "t", "--exit-at-end", "--on-trimmed", "latest")
    assert done.status == 2
    assert "give one of the two" in done.err


def test_another_word_is_refused_with_those_that_there_are(trimmed):
    run, _ = trimmed
    done = run("consume", "t", "--on-trimmed", "never")
    assert done.status == 2
    assert "'error', 'earliest', 'latest'" in done.err
