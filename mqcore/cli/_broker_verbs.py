"""What verbs that ask a broker have in common: options, the way of a request, the question before a deletion."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mqcore.cli.shell import connection_options, current, output_options, refuse, run_async

if TYPE_CHECKING:
    from mqcore.client import Client

__all__ = ["ask", "confirm", "verb_options"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


def verb_options(function: F) -> F:
    """Decorator: the options by which a broker is reached, and by which is said how to print."""
    return connection_options(output_options(function))


def ask(request: Callable[[Client], Awaitable[R]]) -> R:
    """Return what ``request`` returns of a client that is connected as the options say. Raises what it raises."""
    from mqcore.cli._client import connected

    settings = current()

    async def asked() -> R:
        async with connected(settings) as client:
            return await request(client)

    return run_async(asked)


def confirm(what: str, question: str, refusal: str) -> None:
    """Go on if a person says yes to ``question``; else refuse with ``refusal``. ``what`` is said where nobody is."""
    if sys.stdin is None or not sys.stdin.isatty():
        refuse(f"{what}, and there is no terminal to ask: add --yes")
    if not click.confirm(question, err=True):
        refuse(refusal)
