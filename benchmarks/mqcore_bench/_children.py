"""Child processes of a measurement: started, heard by one line of output, ended. Must not know what they measure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["ChildFailed", "data_directory", "end", "machine", "measure", "resident_bytes", "serving"]

_END_SECONDS = 30.0


class ChildFailed(Exception):
    """A child process of a measurement ended with an error; the message is the last line that it wrote."""


def measure(module: str, *arguments: object, timeout_s: float = 180.0) -> dict[str, Any]:
    """Run ``python -m mqcore_bench.MODULE ARGUMENTS`` and return the JSON object that it printed last."""
    command = [sys.executable, "-m", f"mqcore_bench.{module}", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"{module} {' '.join(map(str, arguments))}: no result after {timeout_s:g} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ChildFailed(f"{module} {' '.join(map(str, arguments))}: {told}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


@contextmanager
def serving(module: str, *arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a server as a child, yield the first line that it prints and its process; end it afterwards."""
    with tempfile.TemporaryFile("w+") as errors:  # a file, because a pipe that is not read would stop the server
        child = subprocess.Popen(
            [sys.executable, "-m", f"mqcore_bench.{module}", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert child.stdout is not None
            line = child.stdout.readline().strip()
            if not line:
                status = child.wait()
                errors.seek(0)
                why = (errors.read().strip().splitlines() or [f"ended with status {status} at start"])[-1]
                raise ChildFailed(f"{module} {' '.join(map(str, arguments))}: {why}")
            yield line, child
        finally:
            end(child)


def end(child: subprocess.Popen[str], how: int = signal.SIGTERM) -> None:
    """End a child by signal and wait for it."""
    if child.poll() is None:
        child.send_signal(how)
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


@contextmanager
def data_directory(parent: str | None) -> Iterator[str]:
    """Yield an empty directory under ``parent`` (None: the system's temporary one); removed afterwards."""
    directory = tempfile.mkdtemp(prefix="mqcore-bench-", dir=parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def resident_bytes(process_id: int) -> int:
    """Memory of a process that no other process shares, plus its part of what is shared (PSS), in bytes."""
    with open(f"/proc/{process_id}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise ChildFailed(f"process {process_id} tells nothing of its memory")


def file_system_of(path: str) -> str:
    """Type of the file system that holds ``path``, as the kernel calls it."""
    best, kind = "", "unknown"
    real = os.path.realpath(path)
    with open("/proc/mounts") as file:
        for line in file:
            _, where, what, *_ = line.split()
            inside = real == where or real.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, what
    return kind


def machine(data: str | None) -> Mapping[str, object]:
    """Facts without which a rate means little."""
    import platform

    import trio

    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "trio": trio.__version__,
        "file_system": file_system_of(data or tempfile.gettempdir()),
    }
