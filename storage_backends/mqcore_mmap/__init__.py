"""``mmap:///path``: logs in pre-allocated segment files, written through descriptors, read through mappings.

How it works, in the order of the files that do it:

- ``_layout``: the directory. A layout file (magic, version, storage id) makes it ours; a lock keeps others out;
  ``segments/`` holds every segment of every log, so that one directory flush covers all.
- ``_header``: the first 4 KiB of a segment: who it is (one sector), and the durable mark (three other sectors).
- ``_segment``: one file at a range of positions, its extents and views. ``_files`` makes, names and frees such files.
  A segment begins *unnamed*, under a number; it gets the name of its log when its header is durable. So a bad
  header under a log's name is always damage, and an unnamed file with a bad header never counted.
- ``_handles``: the bounded cache of descriptors and mappings.
- ``_log``: append (inline while the device is fast), read (views; cold ranges through a thread), the contract.
- ``_flusher``: one thread. One dirty log: ``fdatasync`` of its segment. Several: small pending ranges of all logs go as
  one checked set into the journal, one flush for all; large ones go straight to their files.
- ``_journal``: two alternating files of sets. When one is full the segments that it covers are flushed in the
  background (``_checkpoint``), then its generation advances and its sets no longer count.
- ``_recovery``: finishes interrupted removals, replays the journal, names what is unnamed. Each step may be
  repeated: a crash inside it and another run equal one run.
- ``_removal``: truncate, trim and delete, each durable and each safe from a later replay (checkpoint first).

Everything touches the outside through ``mqcore.ports`` only. Nothing here knows what the bytes mean.
"""

from mqcore_mmap._backend import MmapStorage

__all__ = ["MmapStorage"]
