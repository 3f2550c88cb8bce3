"""What the verbs about replica sets share: asking one node or the primary, and a member's state in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mqcore.cli.shell import connection_options, current, output_options, run_async

if TYPE_CHECKING:
    from mqcore.client import SetAdmin
    from mqcore.operations import MemberState

__all__ = ["ago_in_words", "ask_node", "ask_primary", "common_options", "lag_in_words", "pace_in_words"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


def common_options(function: F) -> F:
    """Decorator: the options of every verb that asks a server."""
    return connection_options(output_options(function))


def ask_node(name: str, request: Callable[[SetAdmin], Awaitable[R]]) -> R:
    """Find the node called ``name`` from any server, and ask it alone."""
    from mqcore.cli._cluster_nodes import alone_with, describe_set, find_node

    settings = current()

    async def ask() -> R:
        node = find_node(await describe_set(settings), name)
        async with alone_with(settings, node) as client:
            return await request(client.sets)

    with _unknown_told():
        return run_async(ask)


def ask_primary(request: Callable[[SetAdmin], Awaitable[R]], member: str = "", *, set_name: str = "") -> R:
    """Ask the primary of the set ``set_name``, else of that of the node ``member``, else of the first server's."""
    from mqcore.cli._cluster_nodes import ask_primary_of

    settings = current()

    async def ask() -> R:
        return await ask_primary_of(settings, member, request, set_name=set_name)

    with _unknown_told():
        return run_async(ask)


@contextmanager
def _unknown_told() -> Iterator[None]:
    """Say what to do about an order of which nobody knows whether it was carried out."""
    from mqcore.errors import OutcomeUnknownError

    try:
        yield
    except OutcomeUnknownError as error:
        remedy = "'mqcore cluster describe' shows how the set is now; repeat the order if it was not carried out"
        raise OutcomeUnknownError(f"outcome unknown: {error} {remedy}") from None


def lag_in_words(member: MemberState) -> str:
    """How far a member is behind, or how far its first synchronisation is."""
    from mqcore.units import grouped

    if member.sync_bytes_total is not None:
        held = member.synced_bytes or 0
        return ", ".join((f"synchronising, {100 * held // max(member.sync_bytes_total, 1)} %", *pace_in_words(member)))
    parts = [] if member.lag_messages is None else [f"{grouped(member.lag_messages)} messages"]
    parts += [] if member.lag_ms is None else [f"{member.lag_ms} ms"]
    return ", ".join(parts) or "unknown"


def pace_in_words(member: MemberState) -> tuple[str, ...]:
    """How fast a member that synchronises gets what it lacks, and how long that will take; nothing while not known."""
    if member.sync_bytes_per_s is None or member.sync_left_ms is None:
        return ()
    minutes, seconds = divmod(member.sync_left_ms // 1000, 60)
    left = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s" if minutes else ""
    return f"{member.sync_bytes_per_s / 1e6:.1f} MB/s", f"{left or f'{seconds} s'} left"


def ago_in_words(age_ms: int | None) -> str:
    """How long ago a member was last heard of; None: it does not follow now, whenever it did."""
    return "not here" if age_ms is None else f"{age_ms / 1000:.1f} s ago"
