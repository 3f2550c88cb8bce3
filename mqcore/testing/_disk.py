"""A model disk: the file system port with the promises of POSIX and not one more.

What was not flushed survives a power cut as any subset of sectors and of entry changes; a failed flush marks pages
clean. Contents are kept by ``_sectors``, names by ``_tree``, planned trouble by ``_faults``; this module makes calls,
handles and processes of them. It must not know who uses it.
"""

from __future__ import annotations

import errno
import posixpath
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from mqcore.ports import File, FileFacts, FileSystem
from mqcore.testing._choices import AllChoices, Choices, RandomChoices
from mqcore.testing._faults import Faults
from mqcore.testing._files import ModelFile, ModelLock
from mqcore.testing._machine import DiskCall, DiskMachine
from mqcore.testing._sectors import PAGE_BYTES
from mqcore.testing._tree import DirectoryNode, FileNode, os_error

__all__ = ["ModelDisk"]

FREE_BYTES_UNBOUNDED = 1 << 50


class ModelDisk(FileSystem):
    """The file system as one process sees it; ``restart`` gives it as the next process sees it.

    Every decision comes from ``rng`` (or a seed). ``bytes_max`` bounds the device (None: no bound), ``open_files_max``
    the descriptors of the process, locks included; ``device`` is the number that ``stat`` tells; ``folders`` are there
    from the start, parents first.

    Operation names: open, stat, list, make_directory, rename, unlink, remove_directory, flush_directory, flush_many,
    lock, free_bytes, pwritev, pread, map, view, flush, truncate, size, link_count, drop_cache, close, release.
    """

    def __init__(
        self,
        rng: random.Random | int = 0,
        *,
        bytes_max: int | None = None,
        open_files_max: int = 1024,
        device: int = 1,
        folders: Sequence[str] = (),
    ) -> None:
        self._machine = DiskMachine(random.Random(rng) if isinstance(rng, int) else rng, device)
        self._machine.bytes_max = bytes_max
        self._machine.files_max = open_files_max
        for path in folders:
            self._machine.tree.make_directory(path)
        self._machine.tree.make_durable(list(self._machine.tree.pending))
        self._start_process()

    def _start_process(self) -> None:
        self._alive = True
        self._held: Counter[FileNode] = Counter()
        self._open_files = 0
        self._locks: dict[FileNode, ModelLock] = {}

    @classmethod
    def _on(cls, machine: DiskMachine) -> ModelDisk:
        disk = cls.__new__(cls)
        disk._machine = machine
        disk._start_process()
        return disk

    # ---- the port --------------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> ModelFile:
        """See ``FileSystem``."""
        self.begin("open", (path,))
        return ModelFile(self, path, self._open_node(path, create, exclusive), write)

    def stat(self, path: str) -> FileFacts:
        """See ``FileSystem``."""
        self.begin("stat", (path,))
        # There are no links here, so that ``..`` is where the path's own text says.
        node = self._machine.tree.find(posixpath.normpath(path))
        if node is None:
            raise os_error(errno.ENOENT, path)
        if isinstance(node, DirectoryNode):
            return FileFacts(PAGE_BYTES, self._machine.device, node.number, 0o40755, True)
        return FileFacts(len(node.cached), self._machine.device, node.number, 0o100644, False)

    def list(self, path: str) -> list[str]:
        """See ``FileSystem``."""
        self.begin("list", (path,))
        return sorted(self._machine.tree.directory(path).entries)

    def make_directory(self, path: str) -> None:
        """See ``FileSystem``."""
        self.begin("make_directory", (path,))
        self._machine.tree.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        """See ``FileSystem``."""
        self.begin("rename", (old, new))
        replaced = self._machine.tree.rename(old, new)
        if replaced is not None:
            self._machine.forget_if_unused(replaced)

    def unlink(self, path: str) -> None:
        """See ``FileSystem``."""
        self.begin("unlink", (path,))
        self._machine.forget_if_unused(self._machine.tree.unlink(path))

    def remove_directory(self, path: str) -> None:
        """See ``FileSystem``."""
        self.begin("remove_directory", (path,))
        self._machine.tree.remove_directory(path)

    def flush_directory(self, path: str) -> None:
        """See ``FileSystem``."""
        self.begin("flush_directory", (path,))
        self._machine.flush_directory(path)

    def flush_many(self, files: Sequence[File]) -> None:
        """See ``FileSystem``. Flushes the given files and nothing else; with an injected error, none of them."""
        paths = [file.path for file in files]
        self.begin("flush_many", paths, 0, len(paths))
        handles = [file for file in files if isinstance(file, ModelFile)]
        if len(handles) != len(paths):
            raise TypeError("a model disk flushes files that it opened, and no others")
        for handle in handles:
            handle.check_open()
        self._machine.flush(handles, paths)

    def lock(self, path: str, *, create: bool = True) -> ModelLock:
        """See ``FileSystem``. Refused too when this process itself holds it."""
        self.begin("lock", (path,))
        node = self._open_node(path, create=create, exclusive=False)
        if node in self._machine.locked:
            self.closed(node)
            raise os_error(errno.EAGAIN, path)
        lock = self._locks[node] = ModelLock(self, path, node)
        self._machine.locked.add(node)
        return lock

    def free_bytes(self, path: str) -> int:
        """See ``FileSystem``."""
        self.begin("free_bytes", (path,))
        if self._machine.tree.find(path) is None:
            raise os_error(errno.ENOENT, path)
        bytes_max = self._machine.bytes_max
        return FREE_BYTES_UNBOUNDED if bytes_max is None else max(0, bytes_max - self._machine.used_bytes)

    def open_files_max(self) -> int:
        """See ``FileSystem``."""
        return self._machine.files_max

    def boot_id(self) -> str:
        """See ``FileSystem``."""
        return self._machine.boot_id

    # ---- what is seen and set from outside -------------------------------------------------------------------

    @property
    def on_call(self) -> Callable[[DiskCall], None] | None:
        """Called with each call before it has any effect; may kill the process, cut the power or raise."""
        return self._machine.on_call

    @on_call.setter
    def on_call(self, hook: Callable[[DiskCall], None] | None) -> None:
        self._machine.on_call = hook

    @property
    def latency_us(self) -> dict[str, int]:
        """Operation name -> microseconds of virtual time that each call of it takes; change it at any time."""
        return self._machine.latency_us

    @property
    def bytes_max(self) -> int | None:
        """Size of the device in bytes; None for no bound. May be set at any time."""
        return self._machine.bytes_max

    @bytes_max.setter
    def bytes_max(self, value: int | None) -> None:
        self._machine.bytes_max = value

    @property
    def used_bytes(self) -> int:
        """Bytes of the device in use."""
        return self._machine.used_bytes

    @property
    def calls(self) -> deque[DiskCall]:
        """The last calls (bounded)."""
        return self._machine.calls

    @property
    def call_count(self) -> int:
        """Calls since the disk was made, by all its processes."""
        return self._machine.call_count

    @property
    def counts(self) -> Counter[str]:
        """Calls by operation name."""
        return self._machine.counts

    @property
    def witnesses(self) -> Counter[str]:
        """How often each fault really bit: a run whose fault never did proves nothing.

        Names: process-kill, power-cut, entries-lost, sectors-lost, flush-error, flush-error-sectors, write-back-error,
        read-error, too-many-files, full, rot, stall, ``error:OPERATION``.
        """
        return self._machine.witnesses

    # ---- processes and power ---------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the process that uses this object lives."""
        return self._alive

    def process_kill(self) -> None:
        """Kill the process: its handles and locks are gone, every further call raises ``OSError`` (``EBADF``).

        Nothing written is lost: the page cache is the kernel's.
        """
        if not self._alive:
            return
        self._alive = False
        self._machine.witnesses["process-kill"] += 1
        self._machine.locked -= self._locks.keys()
        for node, count in self._held.items():
            node.handles -= count
            self._machine.forget_if_unused(node)

    def power_cut(self, rng: random.Random | Choices | None = None) -> None:
        """Cut the power: the process dies, and of what was not flushed any part is gone, as ``rng`` decides.

        ``rng`` None draws from the disk's own generator. The kernel's boot id changes.
        """
        self.process_kill()
        source = self._machine.rng if rng is None else rng
        self._machine.power_cut(source if isinstance(source, Choices) else RandomChoices(source))

    def restart(self) -> ModelDisk:
        """Return the file system as the next process sees it, killing this one if it lives.

        Kills that were planned for this one are dropped.
        """
        self.process_kill()
        self._machine.kills.clear()
        return ModelDisk._on(self._machine)

    def kill_at(self, call_number: int, *, power_cut: bool = False) -> None:
        """Kill the process (or cut the power) instead of doing call ``call_number``; see ``DiskCall.number``.

        A ``pwritev`` that is hit leaves a prefix of whole pages of what it was to write.
        """
        self._machine.kills[call_number] = power_cut

    def fork(self) -> ModelDisk:
        """Return an independent copy of the disk as a process started now on it would see it.

        Latency, faults, limits and hooks are not copied; ``rng`` is, in its present state.
        """
        return ModelDisk._on(self._machine.fork())

    def crash_states(self, states_max: int = 100_000) -> Iterator[ModelDisk]:
        """Give every disk that a power cut at this moment may leave, each as the next process sees it.

        Raises ``ValueError`` when there are more than ``states_max``.
        """
        choices = AllChoices()
        for _ in range(states_max):
            fork = self.fork()
            fork.power_cut(choices)
            yield fork.restart()
            if not choices.advance():
                return
        raise ValueError(f"a power cut now may leave more than {states_max} states; use power_cut(rng)")

    # ---- faults ----------------------------------------------------------------------------------------------

    def fail_next(
        self, operation: str, error: int = errno.EIO, *, path: str = "*", times: int = 1, after: int = 0
    ) -> None:
        """Let the next ``times`` calls of ``operation`` on paths like the pattern ``path`` raise ``OSError(error)``.

        The first ``after`` of them still succeed. The failed calls have no effect.
        """
        self._machine.faults.add_error(operation, path, error, times, after)

    def fail_next_flush(
        self, error: int = errno.EIO, *, path: str = "*", times: int = 1, partly: random.Random | None = None
    ) -> None:
        """Let the next ``times`` flushes of files like ``path`` fail as Linux does.

        The dirty pages are marked clean without having reached the device (with ``partly``, some have); reads show the
        new bytes until the cache is dropped, and the flush after that "succeeds".
        """
        self._machine.faults.add_flush(path, error, times, None if partly is None else RandomChoices(partly))

    def fail_write_back(self, path: str) -> None:
        """Let the kernel's own write-back of ``path`` fail now.

        Each descriptor open now gets ``EIO`` at its next flush; one that is opened later is told nothing.
        """
        self._machine.fail_write_back(self._file_node(path))

    def fail_reads(self, path: str, position: int = 0, size: int | None = None) -> None:
        """Let reads that touch the range (None: to the end) of the file raise ``EIO`` until ``heal``."""
        self._machine.faults.add_bad_range(self._file_node(path).number, position, size)

    def heal(self) -> None:
        """End everything that was planned and has not bitten yet: errors, stalls, failing flushes, bad ranges."""
        self._machine.faults = Faults()

    def stall_next(self, operation: str, seconds: float, *, path: str = "*", times: int = 1) -> None:
        """Let the next ``times`` calls of ``operation`` on paths like ``path`` take ``seconds`` (virtual) longer."""
        self._machine.faults.add_stall(operation, path, round(seconds * 1_000_000), times)

    def rot(self, path: str, position: int, size: int = 1, rng: random.Random | None = None) -> None:
        """Flip one bit in each of ``size`` bytes on the device; clean cached pages there are dropped."""
        node = self._file_node(path)
        before = bytes(node.durable)
        node.rot(position, size, rng or self._machine.rng)
        self._machine.witnesses["rot"] += node.durable != before

    def content(self, path: str, *, durable: bool = False) -> bytes:
        """Return a file's bytes without being a port call: as cached, or as on the device."""
        node = self._file_node(path)
        return bytes(node.durable if durable else node.cached)

    def paths(self) -> Sequence[str]:
        """Return the paths of all files, sorted, without being a port call."""
        found: list[str] = []
        folders: list[tuple[str, DirectoryNode]] = [("", self._machine.tree.root)]
        for prefix, folder in folders:
            for name, node in folder.entries.items():
                if isinstance(node, DirectoryNode):
                    folders.append((f"{prefix}/{name}", node))
                else:
                    found.append(f"{prefix}/{name}")
        return sorted(found)

    def unflushed_sectors(self) -> int:
        """Return how many sectors of named files a power cut could take now."""
        return sum(node.unflushed_sectors() for node in self._machine.tree.files())

    def unflushed_entries(self) -> int:
        """Return how many entry changes (create, rename, unlink) a power cut could take now."""
        return len(self._machine.tree.pending)

    # ---- for handles and device threads of this package -------------------------------------------------------

    @property
    def machine(self) -> DiskMachine:
        """What all processes of this disk share."""
        return self._machine

    def begin(
        self,
        operation: str,
        paths: Sequence[str],
        position: int = 0,
        size: int = 0,
        write: Callable[[int], None] | None = None,
    ) -> None:
        """Pass one port call through count, hook, kill, latency and faults; raise what it has to raise.

        ``write(count)`` does the first ``count`` bytes of a write that a kill interrupts.
        """
        machine = self._machine
        if not self._alive:
            raise os_error(errno.EBADF, paths[0] if paths else None)
        call = machine.record(operation, paths, position, size)
        if machine.on_call is not None:
            machine.on_call(call)
        if machine.kills and call.number in machine.kills:
            if write is not None:
                write(machine.rng.randrange(size // PAGE_BYTES + 1) * PAGE_BYTES)
            if machine.kills.pop(call.number):
                self.power_cut()
            else:
                self.process_kill()
        if not self._alive:
            raise os_error(errno.EBADF, call.path)
        if machine.latency_us or machine.faults.active:
            machine.spend(call, paths)

    def holds(self, node: FileNode) -> bool:
        """Say whether this process holds the lock on ``node``."""
        return node in self._locks

    def _file_node(self, path: str) -> FileNode:
        node = self._machine.tree.find(path)
        if not isinstance(node, FileNode):
            raise os_error(errno.EISDIR if node else errno.ENOENT, path)
        return node

    def _open_node(self, path: str, create: bool, exclusive: bool) -> FileNode:
        if self._open_files >= self._machine.files_max:
            self._machine.witnesses["too-many-files"] += 1
            raise os_error(errno.EMFILE, path)
        node = self._machine.tree.find(path)
        if isinstance(node, DirectoryNode):
            raise os_error(errno.EISDIR, path)
        if node is None:
            if not create:
                raise os_error(errno.ENOENT, path)
            node = self._machine.tree.create_file(path)
        elif exclusive and create:
            raise os_error(errno.EEXIST, path)
        node.handles += 1
        self._held[node] += 1
        self._open_files += 1
        return node

    def closed(self, node: FileNode) -> None:
        """Give one descriptor of ``node`` back."""
        if self._alive:
            self._open_files -= 1
            self._held[node] -= 1
            node.handles -= 1
            self._machine.forget_if_unused(node)

    def unlocked(self, node: FileNode) -> None:
        """Give a lock on ``node`` back."""
        if self._locks.pop(node, None) is not None:
            self._machine.locked.discard(node)
            self.closed(node)
