"""From arguments to an exit status: every way in which a verb can end, rendered in one or two lines.

Must not know any verb.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Sequence

import click

from mqcore.cli._output import whole_output
from mqcore.cli._root import root
from mqcore.cli.shell import Ended, ReaderGone, Settings
from mqcore.errors import MqcoreError, exit_code

__all__ = ["TRACEBACK_VARIABLE", "run"]

TRACEBACK_VARIABLE = "MQCORE_TRACEBACK"
"""Environment variable: when set, an unforeseen failure shows its traceback."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; prints the error, if there is one, to standard error."""
    settings = Settings()
    with whole_output():
        output = sys.stdout
        try:
            _refuse_nul(arguments)
            root.main(list(arguments), prog_name="mqcore", standalone_mode=False, obj=settings)
            return 0
        except BaseException as error:
            if isinstance(error, SystemExit) and sys.stdout is not output:
                return 0  # click, in printing help, met a reader that is gone, and has put another stream there
            return _end(settings, _most_telling(error))


def _refuse_nul(arguments: Sequence[str]) -> None:
    """Refuse what no system passes on, but a program that calls this may: no path, name or address can have it."""
    for argument in arguments:
        if "\0" in argument:
            raise click.UsageError(f"{argument!r} has a NUL byte in it: leave it out")


def _most_telling(error: BaseException) -> BaseException:
    """Of the errors in a group, the one to report: ours before others, an interrupt before all."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_most_telling(inner) for inner in error.exceptions]
    for kind in (KeyboardInterrupt, ReaderGone, BrokenPipeError, MqcoreError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _end(settings: Settings, error: BaseException) -> int:
    if isinstance(error, (ReaderGone, BrokenPipeError)):
        return 0
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return 130
    if isinstance(error, (Ended, click.exceptions.Exit)):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    text, status = _describe(error)
    if settings.output == "json":
        print(json.dumps({"error": type(error).__name__, "message": text, "exit": status}), file=sys.stderr)
    else:
        print(f"mqcore: {text}", file=sys.stderr)
    if status == 1 and _traceback_wanted():
        traceback.print_exception(error)
    return status


def _traceback_wanted() -> bool:
    return bool(os.environ.get(TRACEBACK_VARIABLE))


def _describe(error: BaseException) -> tuple[str, int]:
    """Return what to print, one or two lines, and the exit status."""
    if isinstance(error, click.UsageError):
        help_path = f"\nTry '{error.ctx.command_path} --help'." if error.ctx else ""
        return " ".join(error.format_message().split()) + help_path, 2
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, MqcoreError):
        return str(error), exit_code(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 1
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_with(error.name or "")):
        return f"this needs {error.name}, which is not installed: pip install 'mqcore[{extra}]'", 2
    first = (str(error).splitlines() or [""])[0]
    hint = f"\nThis should not happen; {TRACEBACK_VARIABLE}=1 shows where." if not _traceback_wanted() else ""
    return f"{type(error).__name__}: {first}{hint}", 1


def _extra_with(module: str) -> str | None:
    """Return the smallest extra of mqcore that brings ``module``, as the installed package states it."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires("mqcore") or []
    except PackageNotFoundError:
        return None
    extras: dict[str, set[str]] = {}
    for requirement in requirements:
        found = re.fullmatch(r"([A-Za-z0-9.-]+)[^;]*;.*extra == ['\"]([a-z0-9-]+)['\"].*", requirement)
        if found is not None:
            extras.setdefault(found[2], set()).add(found[1])
    wanted = module.partition(".")[0].replace("_", "-")
    fitting = [extra for extra, packages in extras.items() if wanted in packages]
    return min(fitting, key=lambda extra: len(extras[extra]), default=None)
