"""The list of verbs. A verb's module is loaded when the verb is typed; a plug-in's class when it is typed or listed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from mqcore.cli.shell import Group, connection_options, current, output_options, write_json, write_line

if TYPE_CHECKING:
    from mqcore.abc import Command

__all__ = ["VERBS", "root"]

VERBS = {
    "serve": ("mqcore.cli.serve", "Run a broker in the foreground."),
    "topic": ("mqcore.cli.topic", "Create, list, describe, alter and delete topics."),
    "produce": ("mqcore.cli.produce", "Publish the lines of a file or of standard input."),
    "consume": ("mqcore.cli.consume", "Print the messages of a topic."),
    "producer": ("mqcore.cli.producer", "List, describe and delete names of producers."),
    "group": ("mqcore.cli.group", "List, describe, reset and delete consumer groups."),
    "ping": ("mqcore.cli.ping", "Tell in one line what stands between here and a server, and how long it takes."),
    "status": ("mqcore.cli.status", "Show the nodes that answer: role, load, lag, first synchronisation."),
    "reload": ("mqcore.cli.reload", "Have a broker read its configuration file again."),
    "top": ("mqcore.cli.top", "Watch a broker: rates, and what is not committed or flushed yet."),
    "cluster": ("mqcore.cli.cluster", "Begin, describe and recover replica sets, and change who is primary."),
    "replica": ("mqcore.cli.replica", "Add, remove and list the members of a replica set."),
    "dead-letter": ("mqcore.cli.dead_letter", "What consumers failed to handle: list, show, replay, delete."),
    "quarantine": ("mqcore.cli.quarantine", "What a node cut from a log and kept aside: show, replay, delete."),
    "explain": ("mqcore.cli.explain", "Print what an acknowledgement means in a build."),
    "plugins": ("mqcore.cli.plugins", "List and check the installed parts."),
    "storage": ("mqcore.cli.storage", "Inspect, verify, move, back up and restore what a broker has stored."),
    "config": ("mqcore.cli.config", "Write a commented configuration file; check, show and compare."),
    "new": ("mqcore.cli.new", "Write the package of a new part: storage, transport, coordinator or offset store."),
    "demo": ("mqcore.cli.demo", "Kill a broker in the middle of a stream; count what is lost."),
    "completion": ("mqcore.cli.completion", "Print the completion script of a shell."),
}
"""Verb: module that defines ``command``, and the line for the list."""


_WANTS_VERSION = "mqcore.version"


def _note_version(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        ctx.meta[_WANTS_VERSION] = True


class _Root(Group):
    """Finds a verb by name: our own first, then an installed part's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *sorted(_plugin_verbs() - VERBS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in VERBS:
            command = importlib.import_module(VERBS[cmd_name][0]).command
            assert isinstance(command, click.Command)
            return command
        if cmd_name in _plugin_verbs():
            return _plugin_command(cmd_name).build()
        return None

    def invoke(self, ctx: click.Context) -> object:
        # Here and not where the option is read: ``--output`` may stand behind it.
        if ctx.meta.get(_WANTS_VERSION):
            from importlib.metadata import version

            number = version("mqcore")
            if current().json:
                write_json({"version": number})
            else:
                write_line(f"mqcore {number}")
            return None
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, summary) for name, (_, summary) in VERBS.items()]
        rows += [(name, _plugin_summary(name)) for name in sorted(_plugin_verbs() - VERBS.keys())]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


def _plugin_verbs() -> set[str]:
    from mqcore.registry import installed

    return {item.name for item in installed("commands")}


def _plugin_command(name: str) -> Command:
    from mqcore.registry import find

    part = find("commands", name)()
    assert part is not None
    return part  # type: ignore[no-any-return]


def _plugin_summary(name: str) -> str:
    try:
        return _plugin_command(name).summary
    except Exception as error:  # a broken plug-in must not take the help away
        return f"(cannot be loaded: {error})"


@click.group(
    cls=_Root,
    context_settings={"max_content_width": 110},
    examples=[
        "mqcore serve --storage mmap:///tmp/mq --flush sync",
        "mqcore topic create lines --partitions 4",
        "mqcore produce lines /usr/share/common-licenses/GPL-3",
        "mqcore consume lines --from start --exit-at-end | head",
    ],
    epilog=(
        "Exit status: 0 done, 1 failed, 2 wrong usage or configuration, files of certificates included, "
        "3 refused by a promise, 4 not reached in time, "
        "5 damage found, 130 interrupted, 143 terminated."
    ),
)
@click.option("--version", is_flag=True, expose_value=False, callback=_note_version, help="Show the version and exit.")
@connection_options
@output_options
def root() -> None:
    """Compose a message broker out of parts, and see what its acknowledgement means."""
