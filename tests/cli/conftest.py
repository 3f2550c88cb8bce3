"""A broker as ``mqcore serve`` runs it, and the command as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import attrs
import pytest

TIMEOUT_SECONDS = 30


def environment():
    """This process's, without what would configure the command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MQCORE_")}


class Command:
    """Runs ``mqcore`` in a process of its own."""

    def __call__(self, *arguments, stdin=b"", cwd=None, **variables):
        """Run to the end; return the completed process, its output as bytes."""
        return subprocess.run(
            [sys.executable, "-m", "mqcore", *arguments],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=environment() | variables,
            timeout=TIMEOUT_SECONDS,
        )

    def start(self, *arguments, stdin=subprocess.DEVNULL, **variables):
        """Start it, pipes on its outputs."""
        return subprocess.Popen(
            [sys.executable, "-m", "mqcore", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() | variables,
        )


@attrs.frozen
class Served:
    """A broker that runs: its process, the URLs that clients connect to, the events that it printed at start."""

    process: subprocess.Popen
    urls: list
    events: list


class Brokers:
    """Starts ``mqcore serve`` and ends what is left at the end of a test."""

    def __init__(self, command):
        self.command = command
        self.processes = []
        self.drains = []

    def __call__(self, *arguments):
        process = self.command.start("serve", "--output", "json", *arguments)
        self.processes.append(process)
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "ready":
                # whatever else it says goes nowhere, so that a full pipe cannot stop it
                drains = [threading.Thread(target=pipe.read) for pipe in (process.stdout, process.stderr)]
                for drain in drains:
                    drain.start()
                self.drains += drains
                return Served(process, events[-1]["urls"], events)
        raise AssertionError(f"mqcore serve ended with {process.wait()}: {process.stderr.read().decode()}")

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT_SECONDS)
        for drain in self.drains:
            drain.join()
        for process in self.processes:
            process.stdout.close()
            process.stderr.close()


@pytest.fixture(scope="session")
def mqcore_command():
    return Command()


@pytest.fixture
def serve(mqcore_command):
    brokers = Brokers(mqcore_command)
    yield brokers
    brokers.end()


@pytest.fixture(scope="module")
def memory_broker(mqcore_command):
    """One broker for the tests of a module that do not harm it."""
    brokers = Brokers(mqcore_command)
    yield brokers("--storage", "memory://", "--listen", "tcp://127.0.0.1:0")
    brokers.end()


@pytest.fixture
def cli(monkeypatch):
    """Runs a command line in this process: quick, for what needs no process of its own."""
    from click.testing import CliRunner

    import mqcore.cli._run as runner_module

    for name in list(os.environ):
        if name.startswith("MQCORE_"):
            monkeypatch.delenv(name)

    def run(*arguments, stdin=None):
        with CliRunner().isolation(input=stdin) as (out, err, _):
            status = runner_module.run([str(argument) for argument in arguments])
            sys.stderr.flush()
            return attrs.make_class("Result", ["status", "out", "err"])(
                status, out.getvalue().decode(), err.getvalue().decode()
            )

    return run
