"""``mqcore reload``: have a broker read its configuration file again."""

from __future__ import annotations

import attrs
import click

from mqcore.cli._reloading import changes_in_words
from mqcore.cli.shell import Verb, connection_options, current, output_options, run_async, write_json, write_line

__all__ = ["command"]


@click.command(
    "reload", cls=Verb, examples=["mqcore reload", "mqcore reload --server tcp://10.0.0.5:7400 --output json"]
)
@connection_options
@output_options
def command() -> None:
    """Have the broker read its configuration file again, as SIGHUP does, and say what became of it.

    What can be applied while it runs is, all of it at once; every other key that differs is named and waits for a
    restart. With an error anywhere in the file nothing changes, the error is printed, and status is 2.
    """
    from mqcore.cli._client import connected

    settings = current()

    async def ask() -> None:
        async with connected(settings) as client:
            done = await client.admin.reload()
            if settings.json:
                write_json(attrs.asdict(done))
            else:
                write_line(f"reloaded {done.file}: {changes_in_words(done.applied, done.waiting)}")

    run_async(ask)
