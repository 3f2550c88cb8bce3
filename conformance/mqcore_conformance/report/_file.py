"""``report.jsonl`` of a folder: records written as they come, by one run at a time, read back by the run that goes on.

What is in the file stays there: a line that was cut is taken off, nothing else is ever written over.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO

from mqcore.errors import ConfigurationError, MqcoreError
from mqcore_conformance.report._records import RED, Record, contents_of, latest, read_records

REPORT = "report.jsonl"


class ReportNotWritten(MqcoreError):
    """The disk does not take the report any more; what was finished is kept."""

    exit_status = 5


class ReportFile:
    """The records of a folder. ``arguments``: what the run was asked for; another request is refused.

    ``made_with``: versions and machine, kept with them. ``made_of``: what verdicts are of (see ``fingerprints``), by
    part; what the folder holds of other contents counts no more.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Mapping[str, str],
        made_with: Mapping[str, str] = MappingProxyType({}),
        made_of: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.records: list[Record] = []
        self._by_name: dict[str, Record] = {}
        self._size = 0
        self._made_of = dict(made_of)
        self.changed: list[str] = []
        """Of what the folder held older results: names in ``made_of``."""
        self._path = folder / REPORT
        self._file = self._open()
        try:
            self._lock()
            self._read(dict(arguments), dict(made_with))
        except BaseException:
            self._file.close()
            raise

    @property
    def descriptor(self) -> int:
        """Number of the open file, which holds the lock: no child may keep it."""
        return self._file.fileno()

    def _open(self) -> IO[bytes]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._path.exists() and any(self.folder.iterdir()):
                raise ConfigurationError(
                    f"{self.folder}: holds other files and no {REPORT}; write --to a new or an empty folder"
                )
            return self._path.open("r+b" if self._path.exists() else "w+b", buffering=0)
        except OSError as error:
            raise ConfigurationError(
                f"{self.folder}: the report cannot be written there: {error.strerror}; write --to another folder"
            ) from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{self._path}: another run writes it; wait for it, or write --to another folder"
            ) from None

    def _read(self, arguments: dict[str, str], made_with: dict[str, str]) -> None:
        self.records = read_records(self._path)
        self._by_name = {_name_of(record): record for record in self.records}
        self._file.seek(0)
        size = 0
        for line in iter(lambda: self._file.readline(), b""):
            size += len(line) if line.endswith(b"\n") else 0
        self._size = size
        self._file.truncate(size)
        self._file.seek(size)
        if not self.records:
            self._begin(arguments, made_with)
            return
        then = self._by_name["run"]["arguments"]
        for name in [*arguments, *then]:
            if then.get(name) != arguments.get(name):
                raise ConfigurationError(
                    f"{self._path}: holds a run with {name} {str(then.get(name, 'not stated'))[:100]}, this one has "
                    f"{str(arguments.get(name, 'not stated'))[:100]}; write --to another folder, or remove this one"
                )
        before = self._by_name["run"].get("made_of", {})
        self.changed = [name for name, contents in self._made_of.items() if before.get(name) != contents]
        if self.changed:
            self._begin(arguments, made_with)

    def _begin(self, arguments: dict[str, str], made_with: dict[str, str]) -> None:
        self.write({"kind": "run", "arguments": arguments, "made_with": made_with, "made_of": self._made_of})

    def write(self, record: Record) -> None:
        """Add a record; it is in the file when this returns. ``ReportNotWritten`` when the disk does not take it."""
        of = contents_of(record, self._made_of)
        record = record | {"recorded_at": datetime.now(UTC).isoformat(" ", "seconds")} | ({"of": of} if of else {})
        data = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise ReportNotWritten(
                f"{self._path}: {error.strerror}; what was finished is kept: make room, and give the same command again"
            ) from None
        self._size += len(data)
        self.records.append(record)
        self._by_name[_name_of(record)] = record

    def has(self, name: str) -> bool:
        """Whether ``name`` need not be run again: its record is of these contents, whole, and nothing failed."""
        return self.holds(name) and self._by_name[name]["status"] not in RED

    def holds(self, name: str) -> bool:
        """Whether ``name`` is there: its last record is of these contents, neither an ERROR nor cut short."""
        found = self._by_name.get(name)
        return (
            found is not None
            and found["status"] != "ERROR"
            and not found.get("cut")
            and found.get("of", "") == contents_of(found, self._made_of)
        )

    def record(self, name: str) -> Record:
        """Return the record called ``name`` that counts."""
        return self._by_name[name]

    def latest(self) -> list[Record]:
        """Return the records that count."""
        return latest(self.records)

    def close(self) -> None:
        """Give the file up, and the lock with it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ReportNotWritten(f"{self._path}: {error.strerror}") from None
        finally:
            self._file.close()


def _name_of(record: Record) -> str:
    return str(record.get("name", record["kind"]))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is the old or the new one at any moment."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ReportNotWritten(f"{path}: {error.strerror}; {REPORT} beside it is whole") from None
