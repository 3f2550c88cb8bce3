"""The directories of a model disk: names now, names on the device, and the entry changes between them.

Knows nothing of handles, calls or faults. A create, an unlink and a rename are one entry change each; a power cut keeps
any subset of the unflushed ones in which a change comes with the earlier changes of the same file and of the same name
(a file system never shows a name's second change without its first).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TypeAlias

import attrs

from mqcore.testing._choices import Choices
from mqcore.testing._sectors import SectorFile

__all__ = ["DirectoryNode", "EntryChange", "FileNode", "Node", "Place", "Tree", "os_error"]


def os_error(number: int, path: str | None = None) -> OSError:
    """Return the ``OSError`` (of the right subclass) that the operating system would raise."""
    return OSError(number, os.strerror(number), path)


class FileNode(SectorFile):
    """A file: its content, its inode number and how many names and handles lead to it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.links = 0
        self.handles = 0


class DirectoryNode:
    """A directory: ``entries`` as the process sees them, ``durable`` as the device has them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}


Node: TypeAlias = FileNode | DirectoryNode
Place: TypeAlias = tuple[DirectoryNode, str]


@attrs.define(eq=False)
class EntryChange:
    """One unflushed change: ``node`` goes away from ``removed`` and appears at ``added`` (a rename has both)."""

    node: Node
    removed: Place | None
    added: Place | None

    @property
    def home(self) -> DirectoryNode:
        """The directory whose flush makes the change durable: the one where the file arrives, or else leaves."""
        place = self.added or self.removed
        assert place is not None
        return place[0]

    def keys(self) -> set[object]:
        """What orders changes among themselves: the file and the names."""
        keys: set[object] = {self.node.number}
        for place in (self.removed, self.added):
            if place is not None:
                keys.add((place[0].number, place[1]))
        return keys

    def apply(self) -> None:
        """Make the change on the device."""
        if self.removed is not None and self.removed[0].durable.get(self.removed[1]) is self.node:
            del self.removed[0].durable[self.removed[1]]
        if self.added is not None:
            self.added[0].durable[self.added[1]] = self.node


class Tree:
    """All directories of a disk. Paths are absolute strings; errors are those of the operating system."""

    def __init__(self) -> None:
        self.root = DirectoryNode(2)
        self.pending: list[EntryChange] = []
        self._numbers = 2

    def find(self, path: str) -> Node | None:
        """Return what ``path`` leads to, or None."""
        node: Node = self.root
        for name in self._names(path):
            if not isinstance(node, DirectoryNode):
                raise os_error(errno.ENOTDIR, path)
            found = node.entries.get(name)
            if found is None:
                return None
            node = found
        return node

    def directory(self, path: str) -> DirectoryNode:
        """Return the directory at ``path``."""
        node = self.find(path)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if not isinstance(node, DirectoryNode):
            raise os_error(errno.ENOTDIR, path)
        return node

    def place(self, path: str) -> Place:
        """Return the directory and the last name of ``path``."""
        names = self._names(path)
        if not names:
            raise os_error(errno.EBUSY, path)
        if len(names[-1].encode()) > 255:
            raise os_error(errno.ENAMETOOLONG, path)
        return self.directory("/" + "/".join(names[:-1])), names[-1]

    def create_file(self, path: str) -> FileNode:
        """Make an empty file at ``path``, where there is nothing."""
        node = FileNode(self._next_number())
        node.links = 1
        self._add(path, node)
        return node

    def make_directory(self, path: str) -> None:
        """Make a directory at ``path``; nothing happens when it is there."""
        found = self.find(path)
        if found is None:
            self._add(path, DirectoryNode(self._next_number()))
        elif not isinstance(found, DirectoryNode):
            raise os_error(errno.EEXIST, path)

    def unlink(self, path: str) -> FileNode:
        """Remove the name ``path`` of a file; return the file."""
        directory, name = self.place(path)
        node = directory.entries.get(name)
        if node is None:
            raise os_error(errno.ENOENT, path)
        if isinstance(node, DirectoryNode):
            raise os_error(errno.EISDIR, path)
        del directory.entries[name]
        node.links -= 1
        self.pending.append(EntryChange(node, (directory, name), None))
        return node

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        directory, name = self.place(path)
        node = self.directory(path)
        if node.entries:
            raise os_error(errno.ENOTEMPTY, path)
        del directory.entries[name]
        self.pending.append(EntryChange(node, (directory, name), None))

    def rename(self, old: str, new: str) -> FileNode | None:
        """Rename ``old`` to ``new``; return the file that lost its name to it, if any."""
        source, destination = self.place(old), self.place(new)
        node = source[0].entries.get(source[1])
        if node is None:
            raise os_error(errno.ENOENT, old)
        replaced = destination[0].entries.get(destination[1])
        if replaced is node:
            return None
        if isinstance(replaced, DirectoryNode):
            if not isinstance(node, DirectoryNode):
                raise os_error(errno.EISDIR, new)
            if replaced.entries:
                raise os_error(errno.ENOTEMPTY, new)
        elif replaced is not None:
            if isinstance(node, DirectoryNode):
                raise os_error(errno.ENOTDIR, new)
            replaced.links -= 1
        if isinstance(node, DirectoryNode) and any(node is one for one in self._walk_path(new)):
            raise os_error(errno.EINVAL, new)
        del source[0].entries[source[1]]
        destination[0].entries[destination[1]] = node
        self.pending.append(EntryChange(node, source, destination))
        return replaced if isinstance(replaced, FileNode) else None

    def changes_of(self, directory: DirectoryNode) -> list[EntryChange]:
        """Return what a flush of ``directory`` makes durable: its own changes and the earlier ones they build on."""
        chosen: list[EntryChange] = []
        keys: set[object] = set()
        # From the last to the first: which earlier changes are built on is known only by those that build on them.
        for change in reversed(self.pending):
            if change.home is directory or not keys.isdisjoint(change.keys()):
                chosen.append(change)
                keys |= change.keys()
        chosen.reverse()
        return chosen

    def make_durable(self, changes: list[EntryChange]) -> None:
        """Make ``changes`` durable, those that still are pending."""
        wanted = set(map(id, changes))
        for change in self.pending:
            if id(change) in wanted:
                change.apply()
        self.pending = [change for change in self.pending if id(change) not in wanted]

    def crash(self, choices: Choices) -> int:
        """Become what a power cut leaves; return how many entry changes are lost. Contents are not touched."""
        lost_keys: set[object] = set()
        lost = 0
        for change in self.pending:
            keys = change.keys()
            if lost_keys.isdisjoint(keys) and choices.choose(2):
                change.apply()
            else:
                lost_keys |= keys
                lost += 1
        self.pending = []
        for directory in self.directories(durable=True):
            directory.entries = dict(directory.durable)
        return lost

    def directories(self, *, durable: bool = False) -> list[DirectoryNode]:
        """Return all directories, the root first, in an order that depends on names only."""
        found = [self.root]
        # Sorted, for a crash draws its choices in this order, and a seed is to give the same crash every time.
        for directory in found:
            entries = directory.durable if durable else directory.entries
            found += [node for _, node in sorted(entries.items()) if isinstance(node, DirectoryNode)]
        return found

    def files(self) -> Iterator[FileNode]:
        """All files that have a name, in an order that depends on names only."""
        for directory in self.directories():
            for _, node in sorted(directory.entries.items()):
                if isinstance(node, FileNode):
                    yield node

    def _add(self, path: str, node: Node) -> None:
        directory, name = self.place(path)
        directory.entries[name] = node
        self.pending.append(EntryChange(node, None, (directory, name)))

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _walk_path(self, path: str) -> Iterator[Node]:
        names = self._names(path)
        for count in range(len(names)):
            node = self.find("/" + "/".join(names[:count]))
            if node is not None:
                yield node

    @staticmethod
    def _names(path: str) -> list[str]:
        if not path.startswith("/"):
            raise ValueError(f"paths of a file system port are absolute; got {path!r}")
        if "\0" in path:
            raise ValueError("a path holds no zero byte")
        names = [name for name in path.split("/") if name not in ("", ".")]
        if ".." in names:
            raise ValueError(f"the model disk does not follow '..' in {path!r}; normalise the path first")
        return names
