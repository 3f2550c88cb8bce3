"""The verbs of ``mqcore raid``: each is one operation of the array, asked of a broker or of the storage itself.

Knows operations and what they return, and nothing of how an array works: a broker hands them to its storage part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click
import trio

import mqcore
from mqcore.abc import Notice, StorageContext
from mqcore.cli.shell import (
    Group,
    Size,
    Verb,
    connection_options,
    current,
    end,
    output_options,
    progress,
    run_async,
    write_json,
    write_line,
    write_table,
)
from mqcore.errors import CommandNotPossibleError, ConfigurationError, CorruptionError, StorageError
from mqcore.ports import system_ports
from mqcore.registry import create_storage

__all__ = ["raid"]

PART = "raid"
POLL_S = 0.1
Ask = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, Any]]]

_storage = click.option(
    "--storage", metavar="URL", help="Open this array instead of asking a broker, which has to be stopped."
)
_rate = click.option("--rate", type=Size, help="Most bytes per second, such as '50 MB'.  [no limit]")
_wait = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is done.")


@click.group(
    "raid",
    cls=Group,
    examples=["mqcore raid status --output json", "mqcore raid replace /d2 /d5", "mqcore raid scrub"],
)
@connection_options
@output_options
def raid() -> None:
    """Look after the array of directories that a broker has as its storage."""


@raid.command(cls=Verb, examples=["mqcore raid status", "mqcore raid status --storage 'raid:///d1,/d2'"])
@_storage
@connection_options
@output_options
def status(storage: str | None) -> None:
    """Show the members, their states, and how far a rebuild or a scrub is."""
    _run(storage, lambda ask: ask("status", {}))


@raid.command(cls=Verb, examples=["mqcore raid eject /d2", "mqcore raid eject /d2 --storage 'raid:///d1,/d2'"])
@click.argument("member")
@_storage
@connection_options
@output_options
def eject(member: str, storage: str | None) -> None:
    """Have MEMBER (its directory or number) leave the array, for good.

    With --storage also where the array does not open because two members were used without each other: MEMBER is the
    one that is wrong. What it holds stays in its directory.
    """
    _run(storage, lambda ask: ask("eject", {"member": member}))


@raid.command(cls=Verb, examples=["mqcore raid replace /d2 /d5", "mqcore raid replace 1 /d5 --rate '50 MB'"])
@click.argument("member")
@click.argument("directory")
@_rate
@_wait
@_storage
@connection_options
@output_options
def replace(member: str, directory: str, rate: int | None, wait: bool, storage: str | None) -> None:
    """Rebuild MEMBER, which has left the array, in DIRECTORY, which is empty or is made.

    The array serves meanwhile. Name DIRECTORY in the broker's storage URL before its next start.
    """
    arguments: dict[str, object] = {"member": member, "path": directory, "rate_bytes": rate}
    _run(storage, lambda ask: _rebuild(ask, "replace", arguments, wait=wait or storage is not None))


@raid.command(cls=Verb, examples=["mqcore raid rebuild /d2"])
@click.argument("member")
@_rate
@_wait
@_storage
@connection_options
@output_options
def rebuild(member: str, rate: int | None, wait: bool, storage: str | None) -> None:
    """Rebuild MEMBER, which has left the array, where it is; what it held is kept aside there."""
    arguments: dict[str, object] = {"member": member, "rate_bytes": rate}
    _run(storage, lambda ask: _rebuild(ask, "rebuild", arguments, wait=wait or storage is not None))


@raid.command(cls=Verb, examples=["mqcore raid scrub", "mqcore raid scrub --rate '20 MB' --no-wait"])
@_rate
@_wait
@_storage
@connection_options
@output_options
def scrub(rate: int | None, wait: bool, storage: str | None) -> None:
    """Read everything from each member, compare, and mend what rotted; report what no copy decides (status 5).

    The status is 5, too, where the last member of a mirror group is gone.
    """
    found = _run(storage, lambda ask: _scrub(ask, {"rate_bytes": rate}, wait=wait or storage is not None))
    is_lost = any(each["state"] == "failed" for each in found.get("members", ()))
    if is_lost or found.get("scrub", {}).get("blocks_undecided"):
        end(CorruptionError.exit_status)


async def _scrub(ask: Ask, arguments: Mapping[str, object], *, wait: bool) -> Mapping[str, Any]:
    found = await ask("scrub", arguments)
    with progress("scrubbing", None) as bar:
        shown = 0
        while wait and found["scrub"]["is_running"]:
            done = found["scrub"]["bytes_compared"]
            bar.advance(done - shown)
            shown = done
            await trio.sleep(POLL_S)
            found = await ask("status", {})
    return found


async def _rebuild(ask: Ask, operation: str, arguments: Mapping[str, object], *, wait: bool) -> Mapping[str, Any]:
    found = await ask(operation, arguments)
    if not wait:
        return found
    (slot,) = [each["member"] for each in found["members"] if each["state"] == "rebuilding"] or [None]
    with progress("rebuilding", None) as bar:
        shown = 0
        while slot is not None and found["members"][slot]["state"] == "rebuilding":
            done = found["members"][slot].get("rebuild", {}).get("bytes_done", shown)
            bar.advance(done - shown)
            shown = done
            await trio.sleep(POLL_S)
            found = await ask("status", {})
    if slot is not None and found["members"][slot]["state"] != "in-sync":
        raise CommandNotPossibleError(f"the rebuild did not end well: {found['members'][slot]['reason']}")
    return found


def _run(storage: str | None, work: Callable[[Ask], Awaitable[Mapping[str, Any]]]) -> Mapping[str, Any]:
    async def main() -> Mapping[str, Any]:
        async with _offline(storage) if storage is not None else _online() as ask:
            return await work(ask)

    found = run_async(main)
    _write(found)
    return found


@asynccontextmanager
async def _online() -> AsyncIterator[Ask]:
    settings = current()
    async with mqcore.connect(
        *settings.server_urls,
        name="mqcore command line",
        **settings.tls,
        **settings.login,
        connect_timeout_ms=settings.timeout_ms,
        request_timeout_ms=max(settings.timeout_ms, 1),
    ) as client:

        async def ask(operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
            found: Mapping[str, Any] = await client.admin.operate(PART, operation, _given(arguments))
            return found

        yield ask


@asynccontextmanager
async def _offline(url: str) -> AsyncIterator[Ask]:
    if not url.startswith(f"{PART}://"):
        raise ConfigurationError(f"--storage {url}: no array; name one as its broker does, as in raid:///d1,/d2")
    if "create=" not in url:
        # To look after what is not there is a slip of the hand, which would leave an empty array behind.
        url += "&create=false" if "?" in url else "?create=false"
    backend = create_storage(url, StorageContext(ports=system_ports(), report=_tell))
    problem: StorageError | None = None
    try:
        await backend.open()
    except StorageError as error:
        problem = error

    async def ask(operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        if problem is not None and (operation != "eject" or problem.kind != "foreign"):
            raise problem
        return await backend.operate(operation, _given(arguments))

    try:
        yield ask
    finally:
        await backend.aclose()


def _given(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if value is not None}


def _tell(notice: Notice) -> None:
    click.echo(f"mqcore: {notice.text}", err=True)


def _write(found: Mapping[str, Any]) -> None:
    if current().json:
        write_json(dict(found))
        return
    if "ejected" in found:  # from an array that is closed, of which nothing else is known
        write_line(f"{found['ejected']} is ejected: the array opens without it")
        return
    rows = [
        (str(each["member"]), each["path"], each["state"], str(each["group"]), each["reason"])
        for each in found.get("members", ())
    ]
    if rows:
        write_table(rows, ("member", "directory", "state", "group", "why"))
    groups = ", ".join(f"group {number}: {level}" for number, level in enumerate(found.get("groups", ())))
    write_line("; ".join(text for text in (f"level={found.get('level', '')}", groups, _last_scrub(found)) if text))


def _last_scrub(found: Mapping[str, Any]) -> str:
    last = found.get("scrub")
    if not last:
        return ""
    what = "running" if last["is_running"] else "done"
    return (
        f"scrub {what}: {last['logs']} logs, {last['bytes_compared']} bytes, {last['blocks_mended']} blocks mended, "
        f"{last['blocks_undecided']} undecided"
    )
