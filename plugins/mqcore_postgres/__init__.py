"""Coordinator and offset store on PostgreSQL, version 12 or newer: libpq's non-blocking calls on Trio, no thread."""

from mqcore_postgres._coordinator import PostgresCoordinator
from mqcore_postgres._offset_store import PostgresOffsetStore

__all__ = ["PostgresCoordinator", "PostgresOffsetStore"]
