"""A restore that is cut off anywhere: no broker starts on what it left, the same command goes on, and the node that
comes of it is never the one that the backup was taken of (R2, decision 0021)."""

from __future__ import annotations

import pytest
from shelf_storage import LIMITS, Shelf, start
from test_transfer import bring_back, filled, mmap_on, served, state_of_target, take_backup

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import MqcoreError, StorageError
from mqcore.log import StorageInspection
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation

FIRST, SECOND = 7, 8
"""Seeds of the new id that the command and its repetition draw."""
ARRAY = "raid:///a,/b?segment_bytes=8192&first_extent_bytes=4096&extent_bytes_max=4096&journal_bytes=65536"


def array_on(disk: ModelDisk) -> StorageBackend:
    return create_storage(ARRAY, StorageContext(ports=model_ports(1, disk), limits=LIMITS))


async def node_of(backend: StorageBackend) -> bytes:
    async with StorageInspection(backend, LIMITS) as inspection:
        return (await inspection.identity()).node_id


@pytest.mark.parametrize(("make", "stride"), [(mmap_on, 5), (array_on, 29)], ids=["mmap", "array"])
@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power-cut"])
def test_r2_a_restore_cut_off_at_any_call_goes_on_and_is_another_node(make, stride: int, power_cut: bool) -> None:
    shelf, base = Shelf(), ModelDisk(1)
    old = run_simulation(filled, shelf)
    run_simulation(take_backup, shelf, base)
    whole = base.fork()
    run_simulation(bring_back, whole, make(whole))
    calls = whole.call_count - base.call_count
    assert calls > 50
    seen = set()
    for call in range(1, calls + 1, stride):
        disk = base.fork()
        disk.kill_at(disk.call_count + call, power_cut=power_cut)
        try:
            run_simulation(lambda disk=disk: bring_back(disk, make(disk), seed=FIRST))
        except (OSError, MqcoreError, ExceptionGroup):
            assert not disk.alive
        disk = disk.restart()
        state = state_of_target(disk.fork()) if make is mmap_on else ""
        before = run_simulation(node_of, make(disk.fork())) if state == "complete" else b""
        try:
            run_simulation(lambda disk=disk: bring_back(disk, make(disk), seed=SECOND))
        except StorageError as error:  # the mark was gone, or about to be: nothing was left to do
            assert (error.kind, state in ("complete", "")) == ("foreign", True)
        store = run_simulation(served, make(disk), model_ports(2, disk))
        assert store.node_id != old.node_id
        assert store.node_id in (bytes([FIRST]) * 16, bytes([SECOND]) * 16)
        assert before in (b"", store.node_id), "a node that brokers took for complete has got another id"
        seen.add((state, store.node_id[0]))
    assert {node for _, node in seen} == {FIRST, SECOND}, "before its mark a restore begins anew, after it it goes on"
    if make is mmap_on:
        assert {state for state, _ in seen} == {"empty", "refused", "complete"}


@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2"])
def test_a_copy_made_by_hand_does_not_pass_for_the_node_in_silence(boot_id: str) -> None:
    async def main() -> None:
        shelf = Shelf()
        await filled(shelf)
        copy = shelf.copy()
        again = await start(shelf, boot_id=boot_id)
        assert [each.kind for each in again.notices] == []
        copy.mount = "disk-2"
        broker = await start(copy, boot_id=boot_id)
        (notice,) = broker.notices
        assert notice.kind == "storage-elsewhere"
        assert "mqcore storage restore" in notice.text

    run_simulation(main)
