"""Finding the nodes of a cluster from any of its servers, and asking one of them alone. For the verbs that do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import trio

from mqcore.cli.shell import Settings, refuse
from mqcore.client import Client, SetAdmin, connect
from mqcore.errors import MqcoreError, NotReachedError, RemoteProtocolError
from mqcore.nurseries import one_error
from mqcore.operations import ClusterNode, ClusterSet, SetDescription

__all__ = [
    "NODE_SECONDS_MAX",
    "SetAnswer",
    "alone_with",
    "answer_of",
    "answers_of_sets",
    "ask_primary_of",
    "describe_set",
    "find_node",
    "first_answer",
    "sets_of",
    "silent_in_words",
    "until_primary",
]

R = TypeVar("R")

LOOK_SECONDS = 0.1
NODE_SECONDS_MAX = 1.5
"""How long a node of a set may take to answer before it is said that it does not."""


@attrs.frozen(kw_only=True)
class SetAnswer:
    """What the nodes of a set answered: ``description``, the primary's, else the newest; None: no node did.

    ``silent``: of the nodes that gave no answer why not, by name. ``apart``: of those that answered and neither reign
    nor follow.
    """

    set: ClusterSet
    description: SetDescription | None
    silent: Mapping[str, str]
    apart: Mapping[str, str] = attrs.field(factory=dict)


def sets_of(described: SetDescription) -> tuple[ClusterSet, ...]:
    """The sets of the cluster; of a server that names none, the one set that it is in."""
    members = tuple(ClusterNode(name=member.name, urls=member.urls) for member in described.members)
    primary = described.primary.name if described.primary is not None else ""
    return described.sets or (ClusterSet(name=described.set_name, nodes=members, primary=primary),)


def find_node(described: SetDescription, name: str) -> ClusterNode:
    """Return the node called ``name``, of whichever set; a usage error that lists them when there is none."""
    nodes = {node.name: node for each in sets_of(described) for node in each.nodes}
    if name not in nodes:
        refuse(f"the cluster has no node {name!r}; it has {', '.join(nodes) or 'none'}")
    return nodes[name]


@asynccontextmanager
async def alone_with(
    settings: Settings, node: ClusterNode, what: str = "node", *, connect_ms: int | None = None
) -> AsyncIterator[Client]:
    """Connect to ``node`` and to no other; ``NotReachedError`` and ``RemoteProtocolError`` name it.

    ``connect_ms``: how long it may take to connect, if not as long as any answer.
    """
    if not node.urls:
        raise NotReachedError(f"no URL of node {node.name!r} is known: name it with --server")
    try:
        async with connect(
            *node.urls,
            name="mqcore command line",
            **settings.tls,
            **settings.login,
            connect_timeout_ms=connect_ms or settings.timeout_ms,
            request_timeout_ms=max(settings.timeout_ms, 1),
        ) as client:
            yield client
    except NotReachedError as error:
        raise NotReachedError(f"{what} {node.name!r}: {error}") from None
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"{what} {node.name!r}: {error}", code=error.code) from None


async def first_answer(settings: Settings, request: Callable[[Client], Awaitable[R]]) -> R:
    """Ask every server that was named at the same time, and return the first answer: a dead one holds up no other.

    Raises what the request raised at the first that refused it; ``NotReachedError`` when none answers within
    ``--timeout``.
    """
    found: list[R] = []
    problems: list[NotReachedError] = []

    async def ask(url: str) -> None:
        try:
            async with alone_with(settings, ClusterNode(name=url, urls=(url,)), "server") as client:
                found.append(await request(client))
        except NotReachedError as error:
            problems.append(error)
        else:
            nursery.cancel_scope.cancel()

    with one_error():
        async with trio.open_nursery() as nursery:
            for url in settings.server_urls:
                nursery.start_soon(ask, url)
    if not found:
        raise NotReachedError("; ".join(map(str, problems)))
    return found[0]


async def describe_set(settings: Settings) -> SetDescription:
    """Return the set of the first server that answers, as that server knows it."""
    return await first_answer(settings, lambda client: client.sets.describe())


async def ask_primary_of(
    settings: Settings, member: str, request: Callable[[SetAdmin], Awaitable[R]], *, set_name: str = ""
) -> R:
    """Ask the primary of the set called ``set_name``, else of the node ``member``; both empty: of the first server's.

    Its nodes are asked at the same time who that is. Where they know of none, the one that knows most is asked itself,
    and says why. Raises ``NotReachedError`` when none of them answers.
    """
    described = await describe_set(settings)
    own_set = _set_of(described, member, set_name)
    answer = await _ask_nodes(settings, own_set)  # all of them: the first that says it reigns may be a zombie
    found = answer.description
    if found is None:
        raise NotReachedError(f"set {own_set.name!r}: no node answers: {silent_in_words(answer.silent)}")
    # By its own address: the first server that answered may have been configured without that node.
    node = next((each for each in own_set.nodes if each.name == found.name), own_set.nodes[0])
    if found.primary is not None:
        node = ClusterNode(name=found.primary.name, urls=found.primary.urls)
    async with alone_with(settings, node) as client:
        return await request(client.sets)


def _set_of(described: SetDescription, member: str, set_name: str) -> ClusterSet:
    sets = sets_of(described)
    if member:
        find_node(described, member)
    for each in sets:
        if each.name == set_name or (member and member in {node.name for node in each.nodes}):
            return each
    if set_name:
        refuse(f"the cluster has no set {set_name!r}; it has {', '.join(each.name for each in sets)}")
    return next((each for each in sets if each.name == described.set_name), sets[0])


async def until_primary(settings: Settings, found: SetDescription) -> SetDescription:
    """Wait until the set of ``found`` has a primary again, and return the set as that one knows it.

    As any node knows it when that took longer than ``--timeout``.
    """
    own_set = next(each for each in sets_of(found) if each.name == found.set_name)
    with trio.move_on_after(settings.timeout_ms / 1000):
        while found.role != "primary":
            await trio.sleep(LOOK_SECONDS)
            found = (await _ask_nodes(settings, own_set, until_primary=True)).description or found
    return found


async def answers_of_sets(settings: Settings) -> list[SetAnswer]:
    """Ask every node of every set of the cluster at the same time; what is not known after two seconds is left out."""
    sets = sets_of(await describe_set(settings))
    answers: dict[str, SetAnswer] = {}

    async def ask(each: ClusterSet) -> None:
        answers[each.name] = await _ask_nodes(settings, each)

    async with trio.open_nursery() as nursery:
        for each in sets:
            nursery.start_soon(ask, each)
    return [answers[each.name] for each in sets]


async def _ask_nodes(settings: Settings, each: ClusterSet, *, until_primary: bool = False) -> SetAnswer:
    """Ask all nodes of a set; ``until_primary``: no longer than until one says that it reigns."""
    answers: dict[str, SetDescription | str] = {}

    async def ask(node: ClusterNode) -> None:
        answers[node.name] = found = await answer_of(settings, node, lambda client: client.sets.describe())
        if until_primary and not isinstance(found, str) and found.role == "primary":
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for node in each.nodes:
            nursery.start_soon(ask, node)
    known = [found for node in each.nodes if not isinstance(found := answers.get(node.name, ""), str)]
    # Of two that say they reign, one does not know yet that it does not.
    best = _of_one_mind(known)
    apart = {found.name: found.why for found in known if found.role != "primary" and found.why and found is not best}
    silent = {node.name: why for node in each.nodes if isinstance(why := answers.get(node.name, "not waited for"), str)}
    return SetAnswer(set=each, description=best, silent=silent, apart=apart)


def _of_one_mind(known: Sequence[SetDescription]) -> SetDescription | None:
    """What counts of what the nodes of a set say: the primary's word, else the newest, and of who reigns its own."""
    best = max(known, key=lambda found: (found.role == "primary", found.epoch, -found.known_age_ms), default=None)
    if best is None or best.role == "primary" or best.primary is None:
        return best
    reigned = next((found for found in known if best.primary is not None and found.name == best.primary.name), None)
    if reigned is None or reigned.epoch >= best.epoch:
        return reigned or best
    # It came back without what it had: the others know more of the set, and that it does not reign.
    return attrs.evolve(
        best, primary=None, why=f"{reigned.name}, which reigned in epoch {best.epoch}, does not any more"
    )


async def answer_of(settings: Settings, node: ClusterNode, request: Callable[[Client], Awaitable[R]]) -> R | str:
    """Ask one node of several, which has a little time; return what it answered, or in a line why it did not.

    That is what it said, where it refused. Raises nothing.
    """
    seconds = min(NODE_SECONDS_MAX, settings.timeout_ms / 1000)
    with trio.move_on_after(seconds):
        try:
            # Less than the whole of it, so that it ends with its reason and is not just cut off.
            async with alone_with(settings, node, connect_ms=max(round(seconds * 800), 1)) as client:
                return await request(client)
        except NotReachedError as error:
            return str(error).removeprefix(f"node {node.name!r}: ")
        except MqcoreError as error:
            return f"it refused: {str(error).removeprefix(f'node {node.name!r}: ')}"
    return f"no answer within {seconds:g} s"


def silent_in_words(silent: Mapping[str, str]) -> str:
    """Return in one line which nodes gave no answer, and why."""
    return "; ".join(f"{name}: {why}" for name, why in silent.items())
