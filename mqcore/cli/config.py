"""``mqcore config``: the one commented configuration file."""

from __future__ import annotations

import os

import click

from mqcore.cli.shell import Group, Verb, current, make_folder, output_options, refuse, write_json, write_line

__all__ = ["command"]

FILE_NAME = "broker.toml"


@click.group("config", cls=Group, examples=["mqcore config init --to . --storage mmap:///var/lib/mq"])
@output_options
def command() -> None:
    """Write a commented configuration file."""


@command.command("init", cls=Verb, examples=["mqcore config init", "mqcore config init --to /etc/mqcore"])
@click.option("--to", metavar="DIR", default=".", show_default=True, help=f"Folder for {FILE_NAME}; made if missing.")
@click.option("--storage", metavar="URL", help="Where to store; the only key that has no default.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@output_options
def init(to: str, storage: str | None, force: bool) -> None:
    """Write broker.toml: every key with its default and what it is for."""
    from mqcore.config import commented_example

    text = commented_example() if storage is None else commented_example(storage)
    path = os.path.join(to, FILE_NAME)
    make_folder(to)
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        refuse(f"{path} is there already; --force replaces it")
    if current().json:
        write_json({"written": path})
    else:
        write_line(f"wrote {path}; mqcore explain {path} says what it promises, mqcore serve --config {path} runs it")
