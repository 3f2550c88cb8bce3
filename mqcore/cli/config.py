"""``mqcore config``: the one commented configuration file, and that of a cluster; checked, shown, compared."""

from __future__ import annotations

import itertools
import os

import click
from click.core import ParameterSource

from mqcore.cli._build_options import refuse_broken_file
from mqcore.cli._config_shown import check, diff, show
from mqcore.cli.shell import Group, Verb, current, make_folder, output_options, refuse, write_json, write_line

__all__ = ["command"]

FILE_NAME = "broker.toml"
CLUSTER_FILE_NAME = "cluster.toml"
FIRST_PORT = 7400
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@click.group(
    "config",
    cls=Group,
    examples=["mqcore config init --to . --storage mmap:///var/lib/mq", "mqcore config show --effective broker.toml"],
)
@output_options
def command() -> None:
    """Write a commented configuration file; check, show and compare those that there are."""


for _verb in (check, show, diff):
    command.add_command(_verb)


@command.command(
    "init",
    cls=Verb,
    examples=[
        "mqcore config init",
        "mqcore config init --to /etc/mqcore",
        "mqcore config init --cluster --sets 2 --nodes 3 --coordinator etcd://10.0.0.9:2379",
    ],
)
@click.option("--to", metavar="DIR", default=".", show_default=True, help=f"Folder for {FILE_NAME}; made if missing.")
@click.option("--storage", metavar="URL", help="Where to store; the only key that has no default.")
@click.option("--cluster", is_flag=True, help=f"Write {CLUSTER_FILE_NAME}, for all nodes of a cluster, instead.")
@click.option("--sets", type=click.IntRange(1, 26), default=1, show_default=True, help="Cluster: replica sets.")
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="Cluster: nodes of each set.")
@click.option("--coordinator", metavar="URL", default="manual", show_default=True, help="Cluster: who settles it.")
@click.option("--replication", metavar="POLICY", help="Cluster: replication policy. [sync with 2 nodes or more]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@output_options
def init(
    to: str,
    storage: str | None,
    cluster: bool,
    sets: int,
    nodes: int,
    coordinator: str,
    replication: str | None,
    force: bool,
) -> None:
    """Write broker.toml: every key with its default and what it is for.

    With --cluster, cluster.toml: the sets and their nodes, at addresses of this machine, which are yours to replace.
    """
    from mqcore.config import commented_example

    if cluster:
        text = _cluster_text(sets, nodes, coordinator, replication, storage)
    elif idle := [each for each in ("sets", "nodes", "coordinator", "replication") if _was_given(each)]:
        refuse(f"--{idle[0]} is of a cluster: with --cluster, {CLUSTER_FILE_NAME} is written, for all of its nodes")
    else:
        text = commented_example() if storage is None else commented_example(storage)
    refuse_broken_file(text)
    path = os.path.join(to, CLUSTER_FILE_NAME if cluster else FILE_NAME)
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
        if cluster:
            write_line("once every node runs, each by its own --name, mqcore cluster init begins the set")


def _was_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _cluster_text(sets: int, nodes: int, coordinator: str, replication: str | None, storage: str | None) -> str:
    from mqcore.abc import Url
    from mqcore.config import CoordinatorTable, cluster_example
    from mqcore.guarantees import Level, NoReplication, SyncReplication, parse_replication
    from mqcore.registry import check_known

    table = CoordinatorTable(url=coordinator)  # what is no URL is refused before it stands in a file
    if not table.is_manual:
        check_known("coordinators", Url.parse(table.url).scheme, also=["manual"])
    try:
        policy = SyncReplication(level=Level.DISK) if replication is None else parse_replication(replication)
    except ValueError as error:
        refuse(f"--replication: {error}")
    if replication is None and nodes == 1:
        policy = NoReplication()
    ports = itertools.count(FIRST_PORT)
    named = {
        letter: [(f"{letter}{number}", f"tcp://127.0.0.1:{next(ports)}") for number in range(1, nodes + 1)]
        for letter in LETTERS[:sets]
    }
    given = {} if storage is None else {"storage": storage}
    return cluster_example(named, coordinator=coordinator, replication=policy, **given)
