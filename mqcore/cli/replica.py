"""``mqcore replica``: the members of a replica set: add one and watch it synchronise, remove one, list them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mqcore.cli._sets import ago_in_words, ask_primary, common_options, lag_in_words, pace_in_words
from mqcore.cli.shell import (
    Group,
    Size,
    Verb,
    connection_options,
    current,
    output_options,
    progress,
    refuse,
    run_async,
    write_json,
    write_line,
    write_table,
)
from mqcore.errors import CommandNotPossibleError

if TYPE_CHECKING:
    from mqcore.client import SetAdmin
    from mqcore.operations import MemberState

__all__ = ["command"]

LOOK_SECONDS = 0.5
"""How often a replica that is waited for is looked at."""


@click.group(
    "replica", cls=Group, examples=["mqcore replica list", "mqcore replica add c --wait", "mqcore replica remove b"]
)
@connection_options
@output_options
def command() -> None:
    """Add, remove and list the members of the replica set that the server is in."""


@command.command("list", cls=Verb, examples=["mqcore replica list", "mqcore replica list --output json | jq .name"])
@common_options
def list_replicas() -> None:
    """List the members as the primary sees them: who is in sync, how far each lags."""
    members = ask_primary(lambda admin: admin.replicas())
    if current().json:
        for member in members:
            _write(member)
        return
    rows = [
        (
            member.name,
            "yes" if member.in_sync else "no",
            lag_in_words(member),
            ago_in_words(member.last_seen_ms),
            " ".join(member.urls),
        )
        for member in members
    ]
    write_table(rows, ("node", "in sync", "lag", "last seen", "urls"))
    if away := [member.name for member in members if member.last_seen_ms is None]:
        write_line(f"not here: {', '.join(away)}; 'mqcore cluster describe' says why")


@command.command(
    "add",
    cls=Verb,
    examples=["mqcore replica add c", "mqcore replica add c --wait", "mqcore replica add c --rate '20 MB' --wait"],
)
@click.argument("node")
@click.option(
    "--wait", is_flag=True, help="End when NODE is in the in-sync set and holds everything; show how far it is."
)
@click.option(
    "--rate",
    type=Size,
    metavar="SIZE",
    help="Most that NODE is sent a second until it is in sync, such as '20 MB'; again with another one changes it. "
    "[cluster.sync_bytes_per_s, else it gives way to what is sent to the set]",
)
@common_options
def add(node: str, wait: bool, rate: int | None) -> None:
    """Take NODE into the set: a node of the configuration, which synchronises and is in sync when it holds everything.

    NODE may be empty, and may take the place of one that is lost. What it has got stays when it is stopped, or another
    node becomes the primary: it goes on from there. A new primary goes by its configuration, not by --rate.
    """
    if rate == 0:
        refuse("--rate 0: nothing would be sent; name at least 1 byte a second, such as '20 MB'")
    members = ask_primary(lambda admin: admin.add_replica(node, sync_bytes_per_s=rate), node)
    member = next((each for each in members if each.name == node), None)
    if wait:
        member = run_async(_wait_in_sync, node)
    if current().json:
        _write(member)
    elif member is not None and member.in_sync:
        write_line(f"{node} is in the in-sync set")
    else:
        lag = "" if member is None else f" ({lag_in_words(member)})"
        write_line(f"{node} was added{lag}; mqcore replica list shows when it is in sync")


@command.command("remove", cls=Verb, examples=["mqcore replica remove b"])
@click.argument("node")
@common_options
def remove(node: str) -> None:
    """Take NODE out of the in-sync set, for good: it is not promoted and nothing waits for it, until it is added again.

    Refused when too few members would be left for what the set's topics promise.
    """
    members = ask_primary(lambda admin: admin.remove_replica(node), node)
    left = [member.name for member in members if member.in_sync and member.name != node]
    if current().json:
        write_json({"removed": node, "in_sync": left})
    else:
        write_line(f"{node} was removed from the in-sync set; in it: {', '.join(left)}")


async def _wait_in_sync(name: str) -> MemberState:
    """Watch the first synchronisation of ``name`` to its end and return the member."""
    import trio

    from mqcore.cli._cluster_nodes import ask_primary_of

    async def watch(admin: SetAdmin) -> MemberState:
        shown = 0
        while True:
            member = next((each for each in await admin.replicas() if each.name == name), None)
            if member is None:
                raise CommandNotPossibleError(f"{name} is not a member of the set any more")
            if member.in_sync and member.sync_bytes_total is None:
                bar.advance(100 - shown)
                return member
            if member.sync_bytes_total:
                percent = min(100 * (member.synced_bytes or 0) // member.sync_bytes_total, 100)
                bar.advance(max(percent - shown, 0))
                bar.note(", ".join(pace_in_words(member)))
                shown = max(percent, shown)
            await trio.sleep(LOOK_SECONDS)

    with progress(f"synchronising {name}", 100) as bar:
        return await ask_primary_of(current(), name, watch)


def _write(member: MemberState | None) -> None:
    from mqcore.operations import to_json

    write_json(to_json(member))
