"""Composing parts from URLs: options from URL and table, and what is refused before anything is opened."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest

from mqcore.abc import (
    CONTRACT_VERSION,
    Capabilities,
    FlushedLog,
    Link,
    Listener,
    Log,
    StorageBackend,
    StorageContext,
    Transport,
    TransportCapabilities,
)
from mqcore.errors import ConfigurationError, PluginInvalidError, PluginNotFoundError
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.registry import (
    check,
    create_storage,
    create_transport,
    list_plugins,
    register,
    unregister,
    validate_capabilities,
)

GOOD = Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.DISK)


@attrs.frozen(kw_only=True)
class ShelfOptions:
    segment_bytes: int = 64
    eager: bool = False


class Shelf(StorageBackend):
    """A storage that stores nothing: composition must not open it."""

    options_class = ShelfOptions
    declared: Any = GOOD

    @property
    def capabilities(self) -> Capabilities:
        return self.declared  # type: ignore[no-any-return]

    async def open(self) -> None:
        raise AssertionError("composition opens nothing")

    aclose = open

    async def list_logs(self) -> list[str]:
        return []

    async def open_log(self, name: str) -> Log:
        raise NotImplementedError

    async def delete_log(self, name: str) -> None:
        raise NotImplementedError

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        raise NotImplementedError


class Pigeon(Transport):
    options_class = ShelfOptions
    declared: Any = TransportCapabilities()

    @property
    def capabilities(self) -> TransportCapabilities:
        return self.declared  # type: ignore[no-any-return]

    async def listen(self) -> Listener:
        raise NotImplementedError

    async def connect(self) -> Link:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _parts() -> Iterator[None]:
    register("storage", "test-shelf", Shelf)
    register("transports", "pigeon", Pigeon)
    yield
    for name in ("test-shelf", "newer", "odd"):
        unregister("storage", name)
    for name in ("pigeon", "newer"):
        unregister("transports", name)


@pytest.fixture
def context() -> StorageContext:
    return StorageContext(ports=attrs.evolve(system_ports(), random=random.Random(1)))


def test_the_scheme_picks_the_part_and_url_and_table_fill_its_options(context: StorageContext) -> None:
    backend = create_storage("test-shelf:///srv/mq?segment_bytes=1%20KiB", context, {"eager": True})
    assert isinstance(backend, Shelf)
    assert backend.options == ShelfOptions(segment_bytes=1024, eager=True)
    assert backend.url.path == "/srv/mq"
    transport = create_transport("pigeon://roof?eager=true")
    assert transport.options == ShelfOptions(eager=True)


def test_an_option_that_url_and_table_give_differently_is_an_error(context: StorageContext) -> None:
    assert (
        create_storage("test-shelf:///a?segment_bytes=1024", context, {"segment_bytes": "1 KiB"}).options.segment_bytes
        == 1024
    )
    with pytest.raises(
        ConfigurationError, match=r"segment_bytes is given twice: '1' by test-shelf:///a.*, 2 by the options of storage"
    ):
        create_storage("test-shelf:///a?segment_bytes=1", context, {"segment_bytes": 2})


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        (
            "test-shelf:///a?segmnt=1",
            ConfigurationError,
            r"segmnt: unknown key .*did you mean 'segment_bytes'.*allowed: segment_bytes, eager",
        ),
        ("test-shelf:///a?segment_bytes=1%20mile", ConfigurationError, r"segment_bytes: unknown unit 'mile'"),
        ("cellar:///a", PluginNotFoundError, r"no storage backend is called 'cellar'; installed: memory"),
        ("/var/lib/mq", ConfigurationError, r"'/var/lib/mq' is not a URL"),
    ],
)
def test_a_bad_url_is_refused_with_the_remedy(
    context: StorageContext, url: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        create_storage(url, context)


def test_another_contract_version_is_refused_by_name_on_both_sides(context: StorageContext) -> None:
    class Newer(Shelf):
        declared = attrs.evolve(GOOD, contract_version=CONTRACT_VERSION + 1)

    class NewerPigeon(Pigeon):
        declared = TransportCapabilities(contract_version=CONTRACT_VERSION - 1)

    register("storage", "newer", Newer)
    register("transports", "newer", NewerPigeon)
    with pytest.raises(
        PluginInvalidError, match=r"'newer' is written for a newer contract, version 3; .* speaks version 2"
    ):
        create_storage("newer:///a", context)
    with pytest.raises(PluginInvalidError, match=r"'newer' is written for an older contract, version 1"):
        create_transport("newer://a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flush_level": Level.MEMORY}, "flush reaches memory, less than append"),
        ({"append_level": Level.NONE}, "append reaches none"),
        ({"member_losses_survived": 1}, "1 member losses survived with a flush that reaches disk only"),
        ({"member_losses_survived": -1}, "-1 member losses"),
        ({"flush_level": Level.MIRROR}, "level mirror, but no member loss survived"),
        ({"append_bytes_max": 1}, "append_bytes_max 1"),
        ({"log_name_bytes_max": 63}, "log_name_bytes_max 63, less than 64"),
        ({"logs_max": 0}, "logs_max 0"),
    ],
)
def test_impossible_capabilities_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginInvalidError, match=said):
        validate_capabilities("test-shelf", attrs.evolve(GOOD, **changes))


def test_possible_capabilities_pass_and_others_are_no_capabilities() -> None:
    mirror = Capabilities(append_level=Level.PAGE_CACHE, flush_level=Level.MIRROR, member_losses_survived=1)
    nothing = Capabilities(append_level=Level.NONE, flush_level=Level.NONE)
    for capabilities in (GOOD, mirror, nothing):
        assert validate_capabilities("test-shelf", capabilities) is capabilities
    with pytest.raises(PluginInvalidError, match=r"must be an mqcore.abc.Capabilities"):
        validate_capabilities("test-shelf", {"append_level": 1})


def test_a_report_tells_capabilities_without_opening_anything(context: StorageContext) -> None:
    report = check("storage", "test-shelf", context=context)
    assert (report.loads, report.problem) == (True, "")
    assert report.capabilities is not None
    assert report.capabilities["flush_level"] == "disk"
    assert check("storage", "test-shelf").capabilities is None
    wrong = check("storage", "test-shelf", url="test-shelf:///a?nope=1", context=context)
    assert "nope: unknown key" in wrong.problem


def test_a_part_that_raises_when_composed_is_a_problem_not_a_crash(context: StorageContext) -> None:
    class Odd(Shelf):
        def __init__(self, *arguments: Any) -> None:
            raise RuntimeError("surprise")

    register("storage", "odd", Odd)
    assert "raised when it was composed: RuntimeError: surprise" in check("storage", "odd", context=context).problem
    assert {report.name for report in list_plugins(context) if report.group == "storage"} >= {
        "odd",
        "test-shelf",
        "memory",
    }
