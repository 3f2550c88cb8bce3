"""The offset store ``file:///DIRECTORY``: a file for each group, for the processes of one host."""

from mqcore_file_offsets._store import FileOffsetStore

__all__ = ["FileOffsetStore"]
