"""SIGHUP: what can be applied is, what cannot is named, an error changes nothing, a storm is one reload or a few."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

TEXT = """
storage.url = "memory://"
flush.policy = "none"
listen = ["tcp://127.0.0.1:0"]
[limits]
connections_max = 20
"""


@pytest.fixture
def served(mqcore_command, tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(TEXT)
    process = mqcore_command.start("serve", "--config", str(file), "--output", "json")
    process.urls = next_event(process.stdout, "ready")["urls"]
    yield process, file
    process.kill()
    process.communicate()


def next_event(pipe, name):
    for line in pipe:
        record = json.loads(line)
        if record.get("event", record.get("notice")) == name:
            return record
    raise AssertionError(f"the broker ended without {name}")


def test_what_can_be_applied_is_and_what_cannot_waits_for_a_restart(served):
    process, file = served
    file.write_text(TEXT.replace("= 20", "= 30").replace("[limits]", '[limits]\nframe_bytes_max = "20 MiB"'))
    process.send_signal(signal.SIGHUP)
    event = next_event(process.stdout, "reloaded")
    assert event["applied"] == {"limits.connections_max": [20, 30]}
    assert list(event["waiting"]) == ["limits.frame_bytes_max"]
    process.send_signal(signal.SIGHUP)
    event = next_event(process.stdout, "reloaded")
    assert (event["applied"], list(event["waiting"])) == ({}, ["limits.frame_bytes_max"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    "change",
    [("= 20", "= 0"), ("[limits]", "[limits]\nunknown = 1"), ('"memory://"', '"nothing://"'), ("= 20", "="),
     ("[limits]", 'survive = ["power-cut"]\n[limits]')],
)  # fmt: skip
def test_an_error_changes_nothing_and_is_named_in_one_line(served, change):
    process, file = served
    file.write_text(TEXT.replace(*change).replace("[limits]", "[retention]\nage_ms = 1000\n[limits]"))
    process.send_signal(signal.SIGHUP)
    notice = next_event(process.stderr, "reload-refused")
    assert "nothing changes" in notice["text"]
    assert "\n" not in notice["text"]
    file.write_text(TEXT)
    process.send_signal(signal.SIGHUP)
    assert next_event(process.stdout, "reloaded")["applied"] == {}  # else retention would be taken back here


def test_a_storm_of_signals_is_coalesced_and_the_last_word_counts(served):
    process, file = served
    for number in range(200):
        if number == 150:
            file.write_text(TEXT.replace("= 20", "= 31"))
        process.send_signal(signal.SIGHUP)
    events = [next_event(process.stdout, "reloaded")]
    while "limits.connections_max" not in events[-1]["applied"]:
        events.append(next_event(process.stdout, "reloaded"))
    assert len(events) < 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_the_verb_says_what_was_applied_and_what_waits(served, cli):
    process, file = served
    file.write_text(TEXT.replace("= 20", "= 30").replace("[limits]", '[limits]\nframe_bytes_max = "20 MiB"'))
    done = cli("reload", "--server", process.urls[0])
    assert done.status == 0, done.err
    assert done.out == (f"reloaded {file}: limits.connections_max is 30; limits.frame_bytes_max waits for a restart\n")
    assert next_event(process.stdout, "reloaded")["applied"] == {"limits.connections_max": [20, 30]}
    again = json.loads(cli("reload", "--server", process.urls[0], "--output", "json").out)
    assert again["applied"] == {}
    assert again["waiting"] == {"limits.frame_bytes_max": ["17 MiB", "20 MiB"]}


def test_the_verb_tells_an_error_in_one_line_and_nothing_changes(served, cli):
    process, file = served
    file.write_text(TEXT.replace("= 20", "= 0").replace("[limits]", "[retention]\nage_ms = 1000\n[limits]"))
    done = cli("reload", "--server", process.urls[0])
    assert done.status == 2
    assert "is not applied, and nothing changes: " in done.err
    assert "connections_max" in done.err
    assert len(done.err.splitlines()) == 1
    file.write_text(TEXT)
    assert cli("reload", "--server", process.urls[0]).out == f"reloaded {file}: nothing has changed\n"


def test_without_a_configuration_file_there_is_nothing_to_reload(memory_broker, cli):
    done = cli("reload", "--server", memory_broker.urls[0])
    assert done.status == 2
    assert "started without a configuration file: start it with mqcore serve --config FILE" in done.err


def test_signals_and_verbs_at_once_are_obeyed_one_after_the_other(served, cli):
    process, file = served
    for number in range(12):
        file.write_text(TEXT.replace("= 20", f"= {30 + number}"))
        process.send_signal(signal.SIGHUP)
        assert cli("reload", "--server", process.urls[0]).status == 0
    last = json.loads(cli("reload", "--server", process.urls[0], "--output", "json").out)
    assert (last["applied"], last["waiting"]) == ({}, {})


def test_a_certificate_that_ends_soon_is_told_at_the_start_and_at_each_reload(mqcore_command, tmp_path):
    trustme = pytest.importorskip("trustme")
    made = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=2, hours=1))
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    (tmp_path / "own.pem").chmod(0o600)
    file = tmp_path / "broker.toml"
    file.write_text(TEXT.replace("tcp:", "tls:").replace("[limits]", f'[tls]\ncert = "{tmp_path}/own.pem"\n[limits]'))
    process = mqcore_command.start("serve", "--config", str(file), "--output", "json")
    try:
        next_event(process.stdout, "ready")
        for _ in range(2):
            notice = next_event(process.stderr, "certificate-expires")
            assert f"{tmp_path}/own.pem expires in 2 days" in notice["text"]
            process.send_signal(signal.SIGHUP)
    finally:
        process.kill()
        process.communicate()


HUNG_UP_EARLY = """
import os, pathlib, signal, sys
import mqcore.broker
from mqcore.cli import main

file, moment = sys.argv.pop(), sys.argv.pop()
serve_broker = mqcore.broker.serve_broker

async def starts(config, **keys):
    if moment == "start":
        text = pathlib.Path(file).read_text()
        pathlib.Path(file).write_text(text.replace("= 20", "= 30"))
        os.kill(os.getpid(), signal.SIGHUP)
    await serve_broker(config, **keys)
    if moment == "end":
        os.kill(os.getpid(), signal.SIGHUP)

mqcore.broker.serve_broker = starts
sys.argv[1:] = ["serve", "--config", file, "--output", "json"]
main()
"""


@pytest.fixture
def hung_up(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text(TEXT)
    processes = []

    def start(moment):
        command = [sys.executable, "-c", HUNG_UP_EARLY, moment, str(file)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_signal_while_the_broker_starts_is_obeyed_once_it_is_there(hung_up):
    process = hung_up("start")
    assert next_event(process.stdout, "reloaded")["applied"] == {"limits.connections_max": [20, 30]}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_signal_while_the_broker_ends_does_not_change_how_it_ends(hung_up):
    process = hung_up("end")
    next_event(process.stdout, "ready")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
