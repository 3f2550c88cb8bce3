"""The coordinator ``file:///DIRECTORY``: pairs of cells in files of one host, for the processes of that host."""

from mqcore_file_coordinator._coordinator import FileCoordinator

__all__ = ["FileCoordinator"]
