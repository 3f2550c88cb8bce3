"""Ports: files, device threads, clocks and randomness (see ``_abc``). ``system_ports()`` gives the machine's own."""

from mqcore.ports._abc import (
    Buffer,
    Clock,
    DeviceThread,
    Directory,
    File,
    FileFacts,
    FileSystem,
    Lock,
    Mapping,
    Ports,
    Threads,
)
from mqcore.ports._system import system_ports

__all__ = [
    "Buffer",
    "Clock",
    "DeviceThread",
    "Directory",
    "File",
    "FileFacts",
    "FileSystem",
    "Lock",
    "Mapping",
    "Ports",
    "Threads",
    "system_ports",
]
