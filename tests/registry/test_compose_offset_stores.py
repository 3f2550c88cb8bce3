"""Composing offset stores from URLs: the contract is held against a part before anything is opened."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import pytest

from mqcore.abc import (
    CONTRACT_VERSION,
    CURSOR_NAME_BYTES_MAX,
    CommitStamp,
    Cursor,
    CursorKey,
    GroupCursors,
    OffsetStore,
    OffsetStoreCapabilities,
    OffsetStoreContext,
    StorageContext,
    check_cursor_name,
)
from mqcore.errors import ConfigurationError, PluginInvalidError, PluginNotFoundError
from mqcore.ports import system_ports
from mqcore.registry import check, create_offset_store, register, unregister


@attrs.frozen(kw_only=True)
class SlateOptions:
    chalks: int = 4


class Slate(OffsetStore):
    """An offset store that no one may ask anything: composition opens nothing."""

    options_class = SlateOptions
    declared: Any = OffsetStoreCapabilities(one_host=True, commit_cursors_max=100)

    @property
    def capabilities(self) -> OffsetStoreCapabilities:
        return self.declared  # type: ignore[no-any-return]

    async def load(self, group: str) -> GroupCursors:
        raise AssertionError("composition loads nothing")

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        raise AssertionError("composition commits nothing")

    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        raise AssertionError("composition deletes nothing")

    async def groups(self) -> Sequence[str]:
        raise AssertionError("composition lists nothing")

    async def aclose(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _part() -> Iterator[None]:
    register("offset_stores", "slate", Slate)
    yield
    unregister("offset_stores", "slate")


def context() -> OffsetStoreContext:
    return OffsetStoreContext(ports=system_ports())


def test_the_scheme_picks_the_offset_store_and_url_and_table_fill_its_options() -> None:
    slate = create_offset_store("slate://hall?chalks=5", context())
    assert isinstance(slate, Slate)
    assert slate.options == SlateOptions(chalks=5)
    assert create_offset_store("slate://hall", context(), {"chalks": 6}).options == SlateOptions(chalks=6)
    with pytest.raises(ConfigurationError, match="did you mean 'chalks'"):
        create_offset_store("slate://hall?chalk=5", context())


def test_an_unknown_offset_store_is_refused_with_those_that_are_installed() -> None:
    with pytest.raises(PluginNotFoundError, match=r"no offset store is called 'cellar'; installed: .*slate"):
        create_offset_store("cellar://a", context())


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("many", "must be an mqcore.abc.OffsetStoreCapabilities, not 'many'"),
        (OffsetStoreCapabilities(contract_version=CONTRACT_VERSION + 1), "written for a newer contract"),
        (OffsetStoreCapabilities(commit_cursors_max=99), "commit_cursors_max 99, less than 100"),
    ],
)
def test_an_offset_store_that_declares_what_cannot_be_is_refused_by_name(declared: object, said: str) -> None:
    class Odd(Slate):
        pass

    Odd.declared = declared
    register("offset_stores", "odd-slate", Odd)
    try:
        with pytest.raises(PluginInvalidError, match=f"offset store 'odd-slate'.*{said}"):
            create_offset_store("odd-slate://hall", context())
    finally:
        unregister("offset_stores", "odd-slate")


def test_the_check_of_parts_knows_offset_stores() -> None:
    report = check("offset_stores", "slate", context=StorageContext(ports=system_ports()))
    assert report.loads
    assert not report.problem
    assert report.capabilities is not None
    assert report.capabilities["one_host"] is True


@pytest.mark.parametrize("name", ["g", "Größe / 7", "日本", "a" * CURSOR_NAME_BYTES_MAX, ".."])
def test_a_name_of_printable_characters_is_good(name: str) -> None:
    check_cursor_name("group", name)


@pytest.mark.parametrize("name", ["", "a\n", "\0", "\ud800", "ä" * 128, "a" * (CURSOR_NAME_BYTES_MAX + 1), 7, b"g"])
def test_a_name_that_a_store_could_not_keep_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="group name"):
        check_cursor_name("group", name)


@pytest.mark.parametrize("bad", [-1, 2**63, "1", 1.5])
def test_numbers_that_a_column_of_64_bits_cannot_hold_are_refused(bad: Any) -> None:
    for make in (lambda: CursorKey("t", bad), lambda: Cursor(bad, 0), lambda: Cursor(0, bad), lambda: CommitStamp(bad)):
        with pytest.raises((ValueError, TypeError)):
            make()


def test_a_commit_is_refused_before_a_server_is_asked_when_it_cannot_be_kept() -> None:
    slate = create_offset_store("slate://hall", context())
    hundred = {CursorKey("t", number): Cursor(0, 0) for number in range(100)}
    slate.check_commit("g", hundred)
    with pytest.raises(ConfigurationError, match="101 cursors; this store takes 100"):
        slate.check_commit("g", {**hundred, CursorKey("t", 100): Cursor(0, 0)})
    with pytest.raises(ConfigurationError, match="topic name"):
        slate.check_commit("g", {CursorKey("", 0): Cursor(0, 0)})


def test_stamps_are_ordered_by_generation_and_then_by_number() -> None:
    stamps = [CommitStamp(1, 9), CommitStamp(2, 0), CommitStamp(2, 1)]
    assert sorted(reversed(stamps)) == stamps
    assert CommitStamp() < stamps[0]
