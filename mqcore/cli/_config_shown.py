"""``mqcore config check|show|diff``: what a configuration says, once file, environment and flags are put together."""

from __future__ import annotations

from typing import Any

import click

from mqcore.cli._build_options import build_options, compose, explanation_of, refuse_broken
from mqcore.cli._inspection import inspect
from mqcore.cli.shell import Verb, current, end, output_options, write_bytes, write_json, write_line
from mqcore.errors import ConfigurationError

__all__ = ["check", "diff", "show"]

FILE = click.Path(dir_okay=False)


@click.command("check", cls=Verb, examples=["mqcore config check broker.toml", "mqcore config check b.toml --name b2"])
@click.argument("file", metavar="[FILE]", required=False, type=FILE)
@build_options
@output_options
def check(file: str | None, **flags: Any) -> None:
    """Say whether a broker would start on this configuration; nothing is opened. Status 2 for a wrong key or value.

    Every part is composed, and the promises are held against it: status 3 when they cannot be kept. Files that are
    named are read: status 2 where one is missing or of no use, such as a certificate that is expired.
    """
    config = compose(file, flags)
    explanation = explanation_of(config)
    refuse_broken(explanation)
    found = inspect(config)
    if found.problems:
        raise ConfigurationError("\n".join(found.problems))
    notices = [*explanation.warnings, *found.notices]
    where = file or "environment and flags"
    if current().json:
        facts = {"name": config.name, "storage": explanation.storage, "notices": notices}
        write_json({"checked": where, "right": True, **facts})
    else:
        write_line(f"{where}: right; broker {config.name!r} on {explanation.storage}")
        for notice in notices:
            write_line(f"mind: {notice}")


@click.command(
    "show", cls=Verb, examples=["mqcore config show broker.toml", "mqcore config show broker.toml --effective"]
)
@click.argument("file", metavar="[FILE]", required=False, type=FILE)
@click.option("--effective", is_flag=True, help="Every key that has a value, defaults included.")
@build_options
@output_options
def show(file: str | None, effective: bool, **flags: Any) -> None:
    """Print what file, environment (MQCORE_...) and flags come to, as TOML: what differs from the defaults.

    Passwords in URLs are not shown.
    """
    from mqcore.config import flat_keys, keys_as_toml

    keys = flat_keys(compose(file, flags), all_keys=effective)
    if current().json:
        write_json(keys)
    else:
        write_bytes(keys_as_toml(keys).encode())


@click.command("diff", cls=Verb, examples=["mqcore config diff broker.toml new.toml && echo nothing changes"])
@click.argument("old", metavar="OLD", type=FILE)
@click.argument("new", metavar="NEW", type=FILE)
@build_options
@output_options
def diff(old: str, new: str, **flags: Any) -> None:
    """Print the keys of which two configuration files come to other values. Status 1 when there are any.

    Environment and flags go over both, as they would over the one that is served.
    """
    from mqcore.config import changed_keys

    changed = changed_keys(compose(old, flags), compose(new, flags))
    if current().json:
        for key, (before, after) in changed.items():
            write_json({"key": key, "old": before, "new": after})
    else:
        for key, (before, after) in changed.items():
            write_line(f"{key}: {_shown(before)} -> {_shown(after)}")
    if changed:
        end(1)


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
