"""Ports: files, device threads, clocks and randomness (see ``_abc``). ``system_ports()`` gives the machine's own."""

from mqcore.ports._abc import (
    Buffer,
    Clock,
    DeviceThread,
    Directory,
    File,
    FileBirth,
    FileFacts,
    FileSystem,
    Lock,
    Mapping,
    Ports,
    Threads,
)
from mqcore.ports._clock_step import ClockStep, clock_base_ms
from mqcore.ports._ground import BlockDevice, DirectoryGround
from mqcore.ports._ground_probe import probe_ground
from mqcore.ports._system import system_ports

__all__ = [
    "BlockDevice",
    "Buffer",
    "Clock",
    "ClockStep",
    "DeviceThread",
    "Directory",
    "DirectoryGround",
    "File",
    "FileBirth",
    "FileFacts",
    "FileSystem",
    "Lock",
    "Mapping",
    "Ports",
    "Threads",
    "probe_ground",
    "system_ports",
    "clock_base_ms",
]
