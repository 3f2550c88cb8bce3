"""What a supervisor sees: READY=1 once the broker can be used, STOPPING=1, the gateway beside it, one-line refusals."""

from __future__ import annotations

import json
import re
import signal
import socket
import tomllib
import urllib.request
from pathlib import Path

import pytest

from mqcore.cli._supervisor import tell_supervisor
from mqcore.errors import ConfigurationError, RefusedError, exit_code
from mqcore.limits import Limits

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def test_the_supervisor_is_told_when_the_broker_is_ready_and_when_it_stops(mqcore_command, tmp_path):
    pytest.importorskip("h11")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(path)
        supervisor.settimeout(30)
        process = mqcore_command.start(
            "serve", "--storage", "memory://", "--listen", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0",
            "--log-format", "json", NOTIFY_SOCKET=path,
        )  # fmt: skip
        try:
            assert supervisor.recv(100) == b"READY=1"
            events = []
            while not events or events[-1]["event"] != "ready":
                events.append(json.loads(process.stdout.readline()))
            (url,) = [event["url"] for event in events if event["event"] == "http"]
            with urllib.request.urlopen(f"{url}/ready", timeout=120) as answer:
                assert json.load(answer) == {"ready": True}
            process.send_signal(signal.SIGTERM)
            assert supervisor.recv(100) == b"STOPPING=1"
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()


def test_a_supervisor_that_does_not_listen_is_no_reason_to_stop(monkeypatch, tmp_path):
    for address in ("", "relative", str(tmp_path / "nobody"), "@nobody-listens-here", "/" + "x" * 300):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        tell_supervisor("READY=1")


@pytest.mark.parametrize("address", ["7480", "127.0.0.1", "127.0.0.1:99999", "", "h\u00f6st:1"])
def test_an_address_that_is_none_is_refused_before_a_storage_is_made(cli, tmp_path, address):
    result = cli("serve", "--storage", f"mmap://{tmp_path}/a", "--http", address)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_one_address_cannot_show_a_whole_set(cli, tmp_path):
    result = cli("serve", "--cluster-here", "2", "--storage", f"mmap://{tmp_path}/a", "--http", "127.0.0.1:0")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "--cluster-here runs several" in result.err
    assert not (tmp_path / "a").exists()


def settings_of_the_unit():
    lines = (EXAMPLES / "mqcore.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.mark.needs("source-tree")
def test_the_unit_waits_for_a_stop_and_tries_nothing_again_that_is_refused():
    unit = settings_of_the_unit()
    assert unit["Type"] == "notify"
    assert float(unit["TimeoutStopSec"]) * 1000 > 2 * Limits().drain_grace_ms
    assert {int(status) for status in unit["RestartPreventExitStatus"].split()} == {
        exit_code(ConfigurationError()),
        exit_code(RefusedError()),
    }
    assert unit.get("ProcSubset", "all") == "all", "the broker reads the kernel's boot id in /proc/sys"
    # Everything else that ends a start may mend itself; systemd gives up after five in ten seconds if not told.
    assert unit["StartLimitIntervalSec"] == "0"
    assert "-HUP" in unit["ExecReload"]


@pytest.mark.needs("source-tree")
def test_the_container_file_installs_extras_that_there_are_and_shows_the_ports_that_it_listens_on():
    text = (EXAMPLES / "Containerfile").read_text()
    (extras,) = re.findall(r"\.whl\)\[([a-z0-9,]+)\]", text)
    declared = tomllib.loads((EXAMPLES.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "http" in extras.split(",")
    assert set(extras.split(",")) <= set(declared)
    (exposed,) = re.findall(r"(?m)^EXPOSE (.*)$", text)
    assert set(exposed.split()) == set(re.findall(r"0\.0\.0\.0:(\d+)", text)) == {"7400", "7480"}
    assert re.findall(r"http://127\.0\.0\.1:(\d+)/health", text) == ["7480"]
    (owner,) = re.findall(r"(?m)^USER (\d+:\d+)$", text)
    assert owner == ":".join(re.findall(r"useradd --uid (\d+) --gid (\d+)", text)[0])
    (volume,) = re.findall(r"(?m)^VOLUME (.*)$", text)
    assert f"mmap://{volume}/" in text


@pytest.mark.needs("source-tree")
def test_the_examples_of_deployment_use_options_that_there_are(cli):
    told = cli("serve", "--help").out
    for name in ("mqcore.service", "Containerfile"):
        text = (EXAMPLES / name).read_text()
        options = set(re.findall(r"--(?:storage|listen|http|log-format|config)\b", text))
        assert options
        assert all(option in told for option in options)
