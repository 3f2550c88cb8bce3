"""Three brokers on each real coordinator: the primary is killed, and nothing that was acknowledged is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from coordinator_parts import Place

from mqcore.testing import reserve_ports

pytestmark = pytest.mark.slow
NAMES = ("a1", "a2", "a3")
MQCORE = (sys.executable, "-m", "mqcore")
COMMAND_S_MAX = 90
LINES = 300


@attrs.define
class RunningSet:
    """Three brokers below ``folder``, and the command line that knows them."""

    folder: Path
    environment: dict[str, str]
    brokers: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    def serve(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [*MQCORE, "serve", "--config", str(self.folder / "cluster.toml"), "--name", name]
            self.brokers[name] = subprocess.Popen(
                [*command, "--storage", f"mmap://{self.folder}/{name}"], stdout=log, stderr=log
            )

    def command(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run a verb that has to succeed; return what it printed."""
        done = subprocess.run(
            [*MQCORE, *arguments], input=given, capture_output=True, env=self.environment, timeout=COMMAND_S_MAX
        )
        assert done.returncode == 0, (arguments, done.stderr, self.logs())
        return done.stdout

    def until_begun(self) -> None:
        """Begin the set, as soon as its brokers answer."""
        deadline = time.monotonic() + COMMAND_S_MAX
        command = [*MQCORE, "cluster", "init"]
        while subprocess.run(command, capture_output=True, env=self.environment, timeout=COMMAND_S_MAX).returncode:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def described(self) -> Mapping[str, Any]:
        """What the set says of itself."""
        (one,) = json.loads(self.command("cluster", "describe", "--output", "json"))["sets"]
        return dict(one)

    def until_in_sync_is(self, wanted: bool, name: str) -> None:
        deadline = time.monotonic() + COMMAND_S_MAX
        while self._member(name)["in_sync"] is not wanted:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def _member(self, name: str) -> Mapping[str, Any]:
        return next(member for member in self.described()["members"] if member["name"] == name)

    def logs(self) -> str:
        return "".join((self.folder / f"{name}.log").read_text()[-1500:] for name in self.brokers)


@pytest.fixture
def running_set(place: Place, tmp_path: Path) -> Iterator[RunningSet]:
    """Brokers on a server that no other set uses."""
    ports = reserve_ports(len(NAMES))
    subprocess.run(
        [*MQCORE, "config", "init", "--cluster", "--nodes", "3", "--coordinator", place.url, "--to", str(tmp_path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    path = tmp_path / "cluster.toml"
    text = path.read_text()
    for number, port in enumerate(ports):
        text = text.replace(f"127.0.0.1:{7400 + number}", f"127.0.0.1:{port}")
    path.write_text(text)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MQCORE_")}
    servers = ",".join(f"tcp://127.0.0.1:{port}" for port in ports)
    one = RunningSet(tmp_path, clean | {"MQCORE_SERVER": servers})
    for name in NAMES:
        one.serve(name)
    yield one
    for broker in one.brokers.values():
        broker.kill()
        broker.wait()


def test_a_killed_primary_costs_nothing_that_was_acknowledged_and_comes_back_as_a_replica(
    running_set: RunningSet,
) -> None:
    running_set.until_begun()
    running_set.command("topic", "create", "orders", "--replication", "sync", "--copies", "2", "--level", "disk")
    lines = [b"before %d" % number for number in range(LINES)]
    running_set.command("produce", "orders", given=b"\n".join(lines) + b"\n")
    old = running_set.described()["primary"]["name"]
    running_set.brokers[old].kill()
    running_set.brokers[old].wait()
    more = [b"after %d" % number for number in range(LINES)]
    running_set.command("produce", "orders", given=b"\n".join(more) + b"\n")
    assert running_set.described()["primary"]["name"] != old
    running_set.until_in_sync_is(False, old)
    running_set.serve(old)
    running_set.until_in_sync_is(True, old)
    read = running_set.command("consume", "orders", "--from", "start", "--exit-at-end")
    assert sorted(read.splitlines()) == sorted([*lines, *more])
