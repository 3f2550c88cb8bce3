"""Links and transports around others: each wrapper that there is derives from the one that passes everything on."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import typing
from collections.abc import Iterator

import pytest

from mqcore.abc import ByteStream, Link, Peer, Transport
from mqcore.links import PassThroughLink, PassThroughTransport

PACKAGES = ["mqcore", "mqcore_tcp", "mqcore_tls", "mqcore_quic", "mqcore_unix", "mqcore_inproc", "mqcore_conformance"]
KNOWN = {"_LoginLink", "_LoginTransport", "_AcceptedLink", "WatchedLink", "WatchedTransport"}
"""Those that were there when this was written: a test that finds none of them proves nothing."""


def modules_with(text: str) -> Iterator[str]:
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}.", onerror=lambda _: None):
            spec = importlib.util.find_spec(module.name)
            if spec is not None and spec.origin is not None and not module.name.endswith("__main__"):
                with open(spec.origin, encoding="utf-8") as file:
                    if text in file.read():
                        yield module.name


def below(cls: type) -> Iterator[type]:
    for each in cls.__subclasses__():
        yield each
        yield from below(each)


def around(contract: type) -> list[type]:
    """The classes of ``contract`` that are made with another one of it."""
    found = []
    for cls in below(contract):
        if "__init__" in vars(cls) and cls.__module__.startswith("mqcore"):
            hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
            if contract in hints.values():
                found.append(cls)
    return found


@pytest.mark.parametrize(
    ("contract", "wrapper", "base"), [(Link, PassThroughLink, "Link)"), (Transport, PassThroughTransport, "Transport)")]
)
def test_every_wrapper_derives_from_the_one_that_passes_on(contract: type, wrapper: type, base: str) -> None:
    for name in list(modules_with(base)):
        importlib.import_module(name)
    for each in around(contract):
        assert issubclass(each, wrapper), f"{each.__module__}.{each.__qualname__} wraps a {contract.__name__}"
    assert {name for name in KNOWN if name.endswith(contract.__name__)} <= {each.__name__ for each in below(wrapper)}


class Noting(Link):
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.peer = Peer(address="first")
        self.asked: list[str] = []

    async def accept_stream(self) -> ByteStream:
        raise NotImplementedError

    async def open_stream(self) -> ByteStream:
        raise NotImplementedError

    def admit(self) -> None:
        self.asked.append("admit")

    def connection_of(self, stream: ByteStream) -> object:
        return ("carrier", stream)

    async def aclose(self) -> None:
        self.asked.append("aclose")


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if name.endswith("Link")))
def test_a_wrapper_says_inside_that_its_peer_is_admitted_and_knows_who_that_is_by_now(name: str) -> None:
    for module in list(modules_with("Link)")):
        importlib.import_module(module)
    (cls,) = [each for each in below(PassThroughLink) if each.__name__ == name]
    inner = Noting()
    wrapper = cls.__new__(cls)
    PassThroughLink.__init__(wrapper, inner)
    wrapper.admit()
    assert inner.asked == ["admit"]
    assert wrapper.connection_of("stream") == ("carrier", "stream")
    inner.peer = Peer(address="first", tls_subject="CN=alice")
    assert wrapper.peer is inner.peer
