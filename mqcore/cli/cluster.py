"""``mqcore cluster``: begin, describe and recover replica sets, and change who is primary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mqcore.cli._sets import ago_in_words, ask_node, ask_primary, common_options, lag_in_words
from mqcore.cli.shell import (
    Group,
    Verb,
    connection_options,
    current,
    end,
    output_options,
    refuse,
    run_async,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from mqcore.cli._cluster_nodes import SetAnswer
    from mqcore.client import SetAdmin
    from mqcore.operations import MemberState, RecoveredSet, SetDescription

__all__ = ["command"]

NOT_REACHED = 4
AGE_MS_NEVER = 1 << 31
"""Age of what a node knows that has not heard of a primary yet."""


@click.group(
    "cluster",
    cls=Group,
    examples=["mqcore cluster init", "mqcore cluster describe", "mqcore cluster promote b --old-primary-is-stopped"],
)
@connection_options
@output_options
def command() -> None:
    """Begin, describe and recover replica sets, and change who is primary."""


@command.command("init", cls=Verb, examples=["mqcore cluster init", "mqcore cluster init --primary a2"])
@click.option(
    "--primary",
    "primaries",
    metavar="NODE",
    multiple=True,
    help="First primary of its set, else the set's first node; repeatable, once a set.",
)
@common_options
def init(primaries: tuple[str, ...]) -> None:
    """Write the first record of every set of the cluster: once, when its nodes run and have stored nothing yet.

    Refused for a set that has a record, or whose nodes have seen one: that is what `recover` is for.
    """
    from mqcore.cli._cluster_nodes import describe_set, sets_of

    settings = current()
    sets = sets_of(run_async(describe_set, settings))
    known = {node.name for each in sets for node in each.nodes}
    for name in primaries:
        if name not in known:
            refuse(f"--primary {name}: the cluster has no such node; it has {', '.join(sorted(known))}")
    for each in sets:
        named = [node.name for node in each.nodes if node.name in primaries]
        if len(named) > 1:
            refuse(f"--primary {' and '.join(named)}: both are of set {each.name}; a set has one primary")
        first = named[0] if named else each.nodes[0].name
        _report(ask_node(first, lambda admin: admin.init()), "initialised")


@command.command("describe", cls=Verb, examples=["mqcore cluster describe", "mqcore cluster describe --output json"])
@common_options
def describe() -> None:
    """Show every set of the cluster: who is primary, in which epoch, who is in sync, how far replicas lag.

    Every node is asked, for two seconds at most; what the primary says of its set is shown, or the newest that is known
    while there is none, and which nodes did not answer. Status 4 when no node of a set answers.
    """
    from mqcore.cli._cluster_nodes import answers_of_sets

    answers = run_async(answers_of_sets, current())
    if current().json:
        write_json({"sets": [_as_json(answer) for answer in answers]})
    else:
        for index, answer in enumerate(answers):
            if index:
                write_line()
            _show_set(answer)
    if any(answer.description is None for answer in answers):
        end(NOT_REACHED)


@command.command(
    "promote",
    cls=Verb,
    examples=["mqcore cluster promote b", "mqcore cluster promote b --old-primary-is-stopped"],
)
@click.argument("node")
@click.option(
    "--old-primary-is-stopped",
    is_flag=True,
    help="Your word that the old primary, which does not answer, does not run; needed where no coordinator fences it.",
)
@click.option(
    "--unclean", is_flag=True, help="Even if NODE is not in sync: what it lacks is lost, acknowledged or not."
)
@common_options
def promote(node: str, old_primary_is_stopped: bool, unclean: bool) -> None:
    """Make NODE the primary of its set.

    Every node of the set is asked first. Refused, with the reason, when NODE is not in the in-sync set or is behind one
    that answers, and, where no coordinator fences it, when the old primary does not answer.
    """
    found = ask_node(node, lambda admin: admin.promote(old_primary_is_stopped=old_primary_is_stopped, unclean=unclean))
    _report(found, "promoted")


@command.command("demote", cls=Verb, examples=["mqcore cluster demote a"])
@click.argument("node")
@common_options
def demote(node: str) -> None:
    """Have NODE, the primary of its set, stop reigning: nothing is acknowledged until another node is promoted."""

    async def ask(admin: SetAdmin) -> SetDescription:
        found = await admin.describe()
        if found.role != "primary":
            refuse(f"{node} does not reign: it is a {found.role} node")
        return await admin.demote(found.epoch, found.reign_id)

    _report(ask_node(node, ask), "demoted")


@command.command(
    "switchover", cls=Verb, examples=["mqcore cluster switchover", "mqcore cluster switchover --to b --timeout '30 s'"]
)
@click.option("--to", metavar="NODE", default="", help="The next primary; else the member that lacks least.")
@common_options
def switchover(to: str) -> None:
    """Hand a set over to another of its members once that holds everything: nothing is lost, clients see no error."""
    from mqcore.cli._cluster_nodes import until_primary

    found = ask_primary(lambda admin: admin.switch_over(to), to)
    _report(run_async(until_primary, current(), found), "handed over")


@command.command(
    "recover", cls=Verb, examples=["mqcore cluster recover a", "mqcore cluster recover a --missing-are-lost"]
)
@click.argument("node")
@click.option(
    "--missing-are-lost",
    is_flag=True,
    help="Your word that the nodes which do not answer never will, and hold nothing that is needed.",
)
@common_options
def recover(node: str, missing_are_lost: bool) -> None:
    """Write the record of a set anew after the coordinator lost it or went back; NODE reigns then.

    All nodes of the set are asked; what each holds is shown. NODE should be the one that holds most.
    """
    found: RecoveredSet = ask_node(node, lambda admin: admin.recover(missing_are_lost=missing_are_lost))
    if current().json:
        write_json(found)
        return
    rows = [
        (each.name, "yes" if each.answered else "no", each.epoch, each.incarnation, each.bytes) for each in found.found
    ]
    write_table(rows, ("node", "answered", "epoch", "incarnation", "bytes"))
    for each in found.found:
        if each.why:
            write_line(each.why)
    write_line(f"recovered: {node} reigns in epoch {found.epoch}")


@command.command(
    "cap", cls=Verb, examples=["mqcore cluster cap 1", "mqcore cluster cap none", "mqcore cluster cap 1 --set b"]
)
@click.argument("copies", metavar="COPIES|none")
@click.option("--set", "set_name", metavar="NAME", default="", help="The set to cap; needed where there are several.")
@click.option(
    "--other-side-is-stopped",
    is_flag=True,
    help="Your word that the nodes which do not answer do not run; needed where no coordinator fences them.",
)
@common_options
def cap(copies: str, set_name: str, other_side_is_stopped: bool) -> None:
    """Lower what synchronous replication waits for to COPIES nodes in an emergency; `none` takes that back.

    It holds for what waits now and for what comes later; receipts say the lower level.
    """
    from mqcore.cli._cluster_nodes import describe_set, sets_of

    if copies != "none" and (not copies.isascii() or not copies.isdigit() or int(copies) < 1):
        refuse(f"{copies!r} is no number of copies: write 1 or more, or none")
    number = None if copies == "none" else int(copies)
    if not set_name:
        names = [each.name for each in sets_of(run_async(describe_set, current()))]
        if len(names) > 1:
            refuse(f"the cluster has the sets {', '.join(names)}: name the one that is short of nodes with --set")
    found = ask_primary(
        lambda admin: admin.cap_copies(number, other_side_is_stopped=other_side_is_stopped), set_name=set_name
    )
    _report(found, "capped" if number is not None else "no cap")


# what is shown


def _report(found: SetDescription, what: str) -> None:
    if current().json:
        write_json(_description_as_json(found))
    else:
        write_line(f"{what}: {_headline(found)}")


def _headline(found: SetDescription) -> str:
    if found.primary is None:
        why = f": {found.why}" if found.why else ""
        return f"set {found.set_name} has no primary{why}"
    return f"set {found.set_name}: {found.primary.name} is the primary, epoch {found.epoch}"


def _show_set(answer: SetAnswer) -> None:
    from mqcore.cli._cluster_nodes import silent_in_words

    found, silent = answer.description, answer.silent
    if found is None:
        write_line(f"set {answer.set.name}: no node answers ({silent_in_words(silent)})")
        return
    write_line(_headline(found))
    age = ""
    if found.role != "primary" and found.known_age_ms < AGE_MS_NEVER:
        age = f", as {found.name} knew {found.known_age_ms / 1000:g} s ago"
    cap = "" if found.copies_cap is None else f"; synchronous replication waits for {found.copies_cap} at most (cap)"
    write_line(f"id {found.set_id or 'none yet'}, coordinator {found.coordinator}{cap}{age}")
    rows = [_member_row(member, found) for member in found.members]
    write_table(rows, ("node", "role", "in sync", "lag", "last seen", "urls"))
    for name, why in silent.items():
        write_line(f"{name}: {why}")
    for name, why in answer.apart.items():
        write_line(f"{name} does not follow: {why}")


def _member_row(member: MemberState, found: SetDescription) -> tuple[str, ...]:
    is_primary = found.primary is not None and member.name == found.primary.name
    role = "primary" if is_primary else "replica"
    if member.name == found.name and not is_primary:
        role = found.role
    return (
        member.name,
        role,
        "yes" if member.in_sync else "no",
        "" if is_primary else lag_in_words(member),
        "" if member.name == found.name else ago_in_words(member.last_seen_ms),
        " ".join(member.urls),
    )


def _as_json(answer: SetAnswer) -> dict[str, object]:
    found, silent, why = answer.description, list(answer.silent), dict(answer.silent)
    if found is None:
        return {"set_name": answer.set.name, "answered": False, "nodes": silent, "silent": silent, "why_silent": why}
    more = {"answered": True, "silent": silent, "why_silent": why, "why_apart": dict(answer.apart)}
    return {**_description_as_json(found), **more}


def _description_as_json(found: SetDescription) -> dict[str, object]:
    from mqcore.operations import to_json

    plain: dict[str, object] = to_json(found)
    return {key: value for key, value in plain.items() if key != "sets"}
