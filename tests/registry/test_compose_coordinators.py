"""Composing coordinators from URLs: the contract is held against a part before a connection is made."""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from mqcore.abc import (
    CONTRACT_VERSION,
    COORDINATOR_NAME_BYTES_MAX,
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorContext,
    StorageContext,
    check_coordinator_name,
)
from mqcore.errors import ConfigurationError, PluginInvalidError, PluginNotFoundError
from mqcore.ports import system_ports
from mqcore.registry import check, create_coordinator, register, unregister


@attrs.frozen(kw_only=True)
class NoticeBoardOptions:
    pins: int = 4


class NoticeBoard(Coordinator):
    """A coordinator that no one may ask anything: composition makes no connection."""

    options_class = NoticeBoardOptions
    declared: Any = CoordinatorCapabilities(one_host=True)

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        return self.declared  # type: ignore[no-any-return]

    async def read(self, name: str) -> CellPair:
        raise AssertionError("composition asks nothing")

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        raise AssertionError("composition writes nothing")

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        raise AssertionError("composition watches nothing")

    async def names(self, prefix: str) -> list[str]:
        raise AssertionError("composition lists nothing")

    async def aclose(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _part() -> Iterator[None]:
    register("coordinators", "notice-board", NoticeBoard)
    yield
    unregister("coordinators", "notice-board")


def context() -> CoordinatorContext:
    return CoordinatorContext(ports=system_ports())


def test_the_scheme_picks_the_coordinator_and_url_and_table_fill_its_options() -> None:
    board = create_coordinator("notice-board://hall?pins=5", context())
    assert isinstance(board, NoticeBoard)
    assert board.options == NoticeBoardOptions(pins=5)
    assert create_coordinator("notice-board://hall", context(), {"pins": 6}).options == NoticeBoardOptions(pins=6)
    with pytest.raises(ConfigurationError, match="did you mean 'pins'"):
        create_coordinator("notice-board://hall?pin=5", context())


def test_an_unknown_coordinator_is_refused_with_those_that_are_installed() -> None:
    with pytest.raises(PluginNotFoundError, match=r"no coordinator is called 'cellar'; installed: .*notice-board"):
        create_coordinator("cellar://a", context())


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("many", "must be an mqcore.abc.CoordinatorCapabilities, not 'many'"),
        (CoordinatorCapabilities(contract_version=CONTRACT_VERSION + 1), "written for a newer contract"),
        (CoordinatorCapabilities(value_bytes_max=65_535), "value_bytes_max 65535, less than 65536"),
    ],
)
def test_a_coordinator_that_declares_what_cannot_be_is_refused_by_name(declared: object, said: str) -> None:
    class Odd(NoticeBoard):
        pass

    Odd.declared = declared
    register("coordinators", "odd-board", Odd)
    try:
        with pytest.raises(PluginInvalidError, match=f"coordinator 'odd-board'.*{said}"):
            create_coordinator("odd-board://hall", context())
    finally:
        unregister("coordinators", "odd-board")


def test_the_check_of_parts_knows_coordinators() -> None:
    report = check("coordinators", "notice-board", context=StorageContext(ports=system_ports()))
    assert report.loads
    assert not report.problem
    assert report.capabilities is not None
    assert report.capabilities["one_host"] is True


@pytest.mark.parametrize("name", ["set", "sets/a-1", "topics/0a.b_c", "_x", "a" * COORDINATOR_NAME_BYTES_MAX])
def test_a_name_of_words_is_good(name: str) -> None:
    check_coordinator_name(name)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "A", ".a", "a/.b", "a b", "ä", "a\n", "a" * (COORDINATOR_NAME_BYTES_MAX + 1)]
)
def test_a_name_that_a_coordinator_could_not_keep_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="coordinator name"):
        check_coordinator_name(name)
