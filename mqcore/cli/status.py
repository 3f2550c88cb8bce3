"""``mqcore status``: the nodes that there are, what each is busy with, and how far replicas are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import click

from mqcore.cli._sets import common_options, lag_in_words
from mqcore.cli.shell import Settings, Verb, current, end, run_async, write_json, write_line, write_table

if TYPE_CHECKING:
    from mqcore.client import BrokerStatus, Client
    from mqcore.operations import ClusterNode, MemberState, SetDescription

__all__ = ["command"]

NOT_REACHED = 4


@attrs.frozen(kw_only=True)
class _NodeAnswer:
    """What one node answered; ``status`` None: nothing, and ``why``."""

    name: str
    set_name: str = ""
    why: str = ""
    status: BrokerStatus | None = None
    description: SetDescription | None = None


@click.command("status", cls=Verb, examples=["mqcore status", "mqcore status --output json | jq .unflushed_bytes"])
@common_options
def command() -> None:
    """Show every node of the cluster, or the one broker: its role, its load, what it lags, what failed.

    All nodes are asked at the same time, for two seconds at most. Status 4 when one does not answer.
    """
    answers = run_async(_gather, current())
    if current().json:
        for answer in answers:
            write_json(_as_json(answer))
    else:
        columns = ("node", "set", "role", "epoch", "topics", "partitions", "connections", "unflushed", "lag")
        write_table([_row(answer, _state_of(answer, answers)) for answer in answers], columns)
        for answer in answers:
            if answer.status is None:
                write_line(f"{answer.name}: {answer.why}")
            elif answer.description is not None and answer.description.role != "primary" and answer.description.why:
                is_replica = answer.description.role == "replica"
                write_line(f"{answer.name} {'does not follow' if is_replica else 'waits'}: {answer.description.why}")
        for answer in answers:
            for failure in () if answer.status is None else answer.status.failures:
                write_line(f"{answer.name}: a partition stopped: {failure}")
            for refusal in () if answer.status is None else answer.status.refusing:
                write_line(f"{answer.name}: sends are refused, and taken again once that is over: {refusal}")
            if answer.status is not None and answer.status.groups_refused:
                write_line(f"{answer.name}: no group is served: {answer.status.groups_refused}")
            if answer.status is not None and answer.status.storage.get("degraded"):
                url = answer.status.storage.get("url")
                write_line(
                    f"{answer.name}: the storage is DEGRADED: {url}; 'mqcore status --output json' names the member"
                )
    if any(answer.status is None for answer in answers):
        end(NOT_REACHED)


async def _gather(settings: Settings) -> list[_NodeAnswer]:
    import trio

    from mqcore.cli._cluster_nodes import first_answer, sets_of
    from mqcore.errors import RefusedError, RejectedError

    async def ask_first(client: Client) -> tuple[list[tuple[ClusterNode, str]], BrokerStatus | None]:
        with suppress(RefusedError, RejectedError):
            described = await client.sets.describe()
            places = [(node, each.name) for each in sets_of(described) for node in each.nodes if node.urls]
            if places:
                return places, None
        return [], await client.admin.status()  # it is alone, of no set that is configured

    places, status = await first_answer(settings, ask_first)
    if status is not None:
        return [_NodeAnswer(name=status.name, status=status)]
    answers: dict[str, _NodeAnswer] = {}

    async def ask(node: ClusterNode, set_name: str) -> None:
        answers[node.name] = await _answer_of(settings, node, set_name)

    async with trio.open_nursery() as nursery:
        for node, set_name in places:
            nursery.start_soon(ask, node, set_name)
    return [answers[node.name] for node, _ in places]


async def _answer_of(settings: Settings, node: ClusterNode, set_name: str) -> _NodeAnswer:
    from mqcore.cli._cluster_nodes import answer_of

    async def ask(client: Client) -> tuple[SetDescription, BrokerStatus]:
        return await client.sets.describe(), await client.admin.status()

    answer = await answer_of(settings, node, ask)
    if isinstance(answer, str):
        return _NodeAnswer(name=node.name, set_name=set_name, why=answer)
    described, status = answer
    return _NodeAnswer(name=node.name, set_name=set_name, status=status, description=described)


def _state_of(answer: _NodeAnswer, answers: Sequence[_NodeAnswer]) -> MemberState | None:
    """The node as the primary of its set sees it, which alone knows how far it is behind; None where there is none."""
    primaries = [
        each.description
        for each in answers
        if each.set_name == answer.set_name and each.description is not None and each.description.role == "primary"
    ]
    members = [member for described in primaries for member in described.members if member.name == answer.name]
    return members[0] if members else None


def _row(answer: _NodeAnswer, state: MemberState | None) -> tuple[object, ...]:
    from mqcore.units import format_bytes

    status, described = answer.status, answer.description
    if status is None:
        return (answer.name, answer.set_name, "unknown", "", "", "", "", "", "")
    role = described.role if described is not None else "primary" if status.reigns else "waiting"
    return (
        answer.name,
        answer.set_name,
        role,
        status.epoch,
        status.topics,
        status.partitions_open,
        status.connections,
        format_bytes(status.unflushed_bytes),
        "" if state is None or role == "primary" else lag_in_words(state),
    )


def _as_json(answer: _NodeAnswer) -> dict[str, object]:
    from mqcore.operations import to_json

    if answer.status is None:
        return {"name": answer.name, "set_name": answer.set_name, "answered": False, "why_silent": answer.why}
    described = to_json(answer.description)
    return {**to_json(answer.status), "set_name": answer.set_name, "answered": True, "set": described}
