"""The offset store ``sqlite:///FILE``: one SQLite database, for the processes of one host."""

from mqcore_sqlite_offsets._store import SqliteOffsetStore

__all__ = ["SqliteOffsetStore"]
