"""Saboteurs of a transport on datagrams: what is easily left out of one, each seen by one contract check.

Knows private names of ``mqcore_quic``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

import math
from typing import Any

from mqcore_conformance.saboteurs._contracts import ContractSaboteur
from mqcore_conformance.saboteurs._replacing import in_place_of, replacing

_LINK = ("mqcore_quic._link", "QuicLink")
_STREAM = ("mqcore_quic._stream", "QuicStream")
DOUBLED_BYTES = 1_000


@replacing
def no_credit() -> Any:
    """A sender sends whatever there is, and a receiver keeps it."""

    def unlimited(make: Any) -> Any:
        def __init__(it: Any, *args: Any, **named: Any) -> None:
            make(it, *args, **named)
            it.limit = math.inf

        return __init__

    def uncounted(arrived: Any) -> Any:
        def take(it: Any, data: bytes, *, is_end: bool) -> None:
            arrived(it, data, is_end=is_end)
            it.unread = min(it.unread, 1)

        return take

    return ((*_STREAM, "__init__", unlimited), (*_STREAM, "arrived", uncounted))


@in_place_of((*_LINK, "_wait_for_all"))
def no_goodbye(_: Any) -> Any:
    """A link is closed without waiting until its peer has what was sent."""

    async def wait(it: Any) -> None:
        pass

    return wait


@in_place_of(("mqcore_quic._half_open", "HalfOpen", "must_prove"))
def no_retry(_: Any) -> Any:
    """However many handshakes are under way, no client has to prove its address."""
    return property(lambda it: False)


@in_place_of((*_STREAM, "arrived"))
def delivered_twice(arrived: Any) -> Any:
    """What a large packet brings is given to the reader a second time."""

    def take(it: Any, data: bytes, *, is_end: bool) -> None:
        arrived(it, data, is_end=is_end)
        if len(data) > DOUBLED_BYTES and not it.closed:
            it._arrived.append(data)

    return take


@in_place_of((*_LINK, "_on_arrived"))
def half_close_ends_all(on_arrived: Any) -> Any:
    """The end of one direction of a stream is taken for the end of the link."""

    def take(it: Any, event: Any) -> None:
        on_arrived(it, event)
        if event.is_end and not event.stream_id & 2:
            it.fail("a stream ended")

    return take


def _one(name: str, make: Any, clause: str, check: str) -> ContractSaboteur:
    return ContractSaboteur(
        name=name,
        make=make,
        clause=clause,
        check=check,
        green="a_closed_stream_takes_and_gives_nothing",
        url="quic",
    )


QUIC_SABOTEURS: tuple[ContractSaboteur, ...] = (
    _one("quic-no-credit", no_credit, "G20", "a_reader_that_stops_holds_its_writer_up"),
    _one("quic-no-goodbye", no_goodbye, "G04", "what_was_sent_before_a_link_is_closed_arrives"),
    _one("quic-no-retry", no_retry, "G20", "strangers_get_less_than_they_sent"),
    _one("quic-delivered-twice", delivered_twice, "G05", "bytes_arrive_in_order_and_unchanged"),
    _one("quic-half-close-ends-all", half_close_ends_all, "G18", "half_close_is_what_is_claimed"),
)
"""Saboteurs of transports on datagrams, on the part ``quic``."""
