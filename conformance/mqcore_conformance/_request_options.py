"""The options of ``run`` and ``list``, and the request that they make. Every value is checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from mqcore.cli.shell import Duration, refuse
from mqcore_conformance.claims import Claims, load_claims, read_settings
from mqcore_conformance.plans import CRASH_POINTS, FAMILIES, FLUSH_POLICIES
from mqcore_conformance.processes import T1_FAMILIES
from mqcore_conformance.request import (
    STORAGES,
    TIERS,
    TRANSPORTS,
    Request,
    resolve_storage,
    resolve_transport,
)

__all__ = ["request_of", "request_options"]

F = TypeVar("F", bound=Callable[..., Any])
SEEDS_DEFAULT = 2


def request_options(function: F) -> F:
    """Decorator: what ``request_of`` reads."""
    families = ", ".join(dict.fromkeys((*FAMILIES, *T1_FAMILIES)))
    options = (
        click.option(
            "--storage",
            multiple=True,
            metavar="URL",
            help="A URL with {dir}, its name, or all; repeatable. [what ./pyproject.toml says, else all]",
        ),
        click.option(
            "--transport", metavar="NAMES", help="Names or URLs; by comma. [what ./pyproject.toml says, else all]"
        ),
        click.option(
            "--flush", default="all", metavar="NAMES", help=f"{', '.join(FLUSH_POLICIES)}; by comma. [all]"
        ),
        click.option(
            "--family",
            default="all",
            metavar="NAMES",
            help=f"Families of faults: {families}; by comma. All leaves out {CRASH_POINTS}. [all]",
        ),
        click.option(
            "--tier", default="contract,T0", metavar="NAMES", help=f"{', '.join(TIERS)}; by comma. [contract,T0]"
        ),
        click.option("--clause", default="", metavar="IDS", help="Judge these clauses only, such as G01,G11."),
        click.option("--cell", default="", metavar="TEXT", help="Only what has this in its name, as list prints it."),
        click.option("--seeds", type=click.IntRange(1), help=f"Seeds per cell. [{SEEDS_DEFAULT}]"),
        click.option("--first-seed", type=click.IntRange(0), help="The first of them. [0]"),
        click.option(
            "--seed", "exact", type=click.IntRange(0), multiple=True, help="Exactly this seed; repeatable."
        ),
        click.option(
            "--budget", type=Duration, metavar="DURATION", help="Begin nothing after this time; status 4 when it cuts."
        ),
        click.option(
            "--jobs", type=click.IntRange(1, 64), help="Processes at once. [the cores that this process may use]"
        ),
        click.option(
            "--claims",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="What the parts claim and what is known to fail. [what ./pyproject.toml says, else nothing]",
        ),
        click.option(
            "--dir",
            "folder_of_data",
            metavar="DIR",
            type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
            help="Where {dir} is: on the disk in question. [the system's folder for temporary files]",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def request_of(options: dict[str, Any]) -> tuple[Request, Path | None]:
    """Return the request of a command line, and where data goes; ``ConfigurationError`` in one line."""
    exact: tuple[int, ...] = options["exact"]
    if exact and (options["seeds"] is not None or options["first_seed"] is not None):
        refuse("--seed says exactly which seeds; leave out --seeds and --first-seed")
    first = options["first_seed"] or 0
    budget_ms = options["budget"]
    storages, transports, claims = _parts(options)
    request = Request(
        storages=_each(storages, STORAGES, resolve_storage),
        transports=_each(transports, TRANSPORTS, resolve_transport),
        flushes=_each(_split(options["flush"]), FLUSH_POLICIES),
        families=_each(_split(options["family"]), FAMILIES),
        tiers=_each(_split(options["tier"]), TIERS, _tier),
        clauses=tuple(dict.fromkeys(part.upper() for part in _split(options["clause"]))),
        cells=options["cell"],
        seeds=tuple(dict.fromkeys(exact)) or tuple(range(first, first + (options["seeds"] or SEEDS_DEFAULT))),
        extra_seeds=not exact,
        budget_s=budget_ms / 1000 if budget_ms is not None else None,
        jobs=options["jobs"] or min(64, len(os.sched_getaffinity(0))),
        claims=load_claims(claims) if claims is not None else Claims(),
    )
    return request, options["folder_of_data"]


def _parts(options: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], Path | None]:
    """Return storages, transports and the claims file: who names no part means those of ./pyproject.toml."""
    storages, claims = options["storage"], options["claims"]
    transports = None if options["transport"] is None else _split(options["transport"])
    if not storages and transports is None:
        settings = read_settings(Path())
        storages, transports = settings.storage, settings.transport or None
        claims = Path(settings.claims) if claims is None and settings.claims else claims
    return storages or ("all",), ("all",) if transports is None else transports, claims


def _tier(name: str) -> str:
    return next((tier for tier in TIERS if tier.lower() == name.lower()), name)


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _each(
    values: Iterable[str], everything: Iterable[str], resolve: Callable[[str], str] = lambda value: value
) -> tuple[str, ...]:
    found: list[str] = []
    for value in values:
        found += everything if value == "all" else [resolve(value)]
    if not found:
        refuse("an option that names what is to run names nothing; leave it out for all")
    return tuple(dict.fromkeys(found))
