"""Folders of a model disk as somebody else handles them: removed, copied, found by a storage's URL."""

from __future__ import annotations

from mqcore.testing import ModelDisk

__all__ = ["copy_folder", "member_folders", "remove_folder"]


def member_folders(url: str, data: str) -> list[str]:
    """The folders that ``url`` names with ``{dir}``, which stands for ``data``: the members of an array; else none."""
    path = url.partition("://")[2].partition("?")[0]
    found = ["/" + one.replace("{dir}", data).lstrip("/") for one in path.split(",") if "{dir}" in one]
    return found if len(found) > 1 else []


def remove_folder(disk: ModelDisk, path: str) -> None:
    """Remove a folder with all that is in it."""
    for name in disk.list(path):
        if disk.stat(f"{path}/{name}").is_directory:
            remove_folder(disk, f"{path}/{name}")
        else:
            disk.unlink(f"{path}/{name}")
    disk.remove_directory(path)
    disk.flush_directory(path.rpartition("/")[0])


def copy_folder(disk: ModelDisk, source: str, target: str, *, durable: bool = False) -> None:
    """Copy a folder with all that is in it, durably. ``durable``: only what its device holds."""
    disk.make_directory(target)
    for name in disk.list(source):
        if disk.stat(f"{source}/{name}").is_directory:
            copy_folder(disk, f"{source}/{name}", f"{target}/{name}", durable=durable)
            continue
        file = disk.open(f"{target}/{name}", create=True)
        content = disk.content(f"{source}/{name}", durable=durable)
        if content:
            file.pwritev([content], 0)
        file.flush()
        file.close()
    disk.flush_directory(target)
    disk.flush_directory(target.rpartition("/")[0])
