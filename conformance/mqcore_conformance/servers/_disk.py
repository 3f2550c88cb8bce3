"""A disk that hangs: an ext4 file system in a file, whose writes the kernel holds up until it is told otherwise.

The process that writes goes on running meanwhile, which is what differs from a frozen process. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

__all__ = ["HangingDisk"]

DISK_BYTES = 512 * 1024 * 1024
"""Its size; the file has holes, and takes what is written."""
_TOOLS = ("mkfs.ext4", "mount", "umount", "fsfreeze")


class HangingDisk:
    """Mounted at ``folder`` while it is entered. Raises ``OSError``, ``subprocess.CalledProcessError`` on entry."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="mqcore-disk-"))
        self.folder = self._home / "mounted"
        self._hangs = False

    @staticmethod
    def why_not() -> str:
        """Return in one line why there can be none here; empty when there can."""
        if os.geteuid() != 0:
            return "not running as root, who alone may mount a file system"
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            return f"{missing[0]} is not installed"
        try:
            with HangingDisk():
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no file system can be mounted from a file here ({error})"

    def __enter__(self) -> HangingDisk:
        image = self._home / "image"
        try:
            image.touch()
            os.truncate(image, DISK_BYTES)
            self.folder.mkdir()
            _run("mkfs.ext4", "-q", str(image))
            _run("mount", "-o", "loop", str(image), str(self.folder))
        except BaseException:
            shutil.rmtree(self._home)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.heal()
        _run("umount", str(self.folder))
        shutil.rmtree(self._home)

    def hang(self) -> None:
        """Hold up every write and flush from now on."""
        _run("fsfreeze", "--freeze", str(self.folder))
        self._hangs = True

    def heal(self) -> None:
        """Let them go on. Idempotent."""
        if self._hangs:
            _run("fsfreeze", "--unfreeze", str(self.folder))
            self._hangs = False


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
