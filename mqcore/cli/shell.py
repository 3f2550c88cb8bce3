"""What the verbs share: command classes with examples, the common options, output as text or JSON, running on Trio.

A common option is accepted before and after the verb; the one that stands later wins. Must not know any verb.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

import attrs
import click

from mqcore.cli._output import LineQueue
from mqcore.cli._settings import DEFAULT_SERVER, LOGIN_OPTIONS, SERVER_VARIABLE, TLS_OPTIONS, Settings, current
from mqcore.errors import ConfigurationError

__all__ = [
    "DEFAULT_SERVER",
    "SERVER_VARIABLE",
    "Duration",
    "Ended",
    "Group",
    "Progress",
    "ReaderGone",
    "Settings",
    "Size",
    "Verb",
    "connection_options",
    "current",
    "end",
    "facts_in_words",
    "in_words",
    "line_queue",
    "make_folder",
    "output_options",
    "progress",
    "refuse",
    "run_async",
    "write_bytes",
    "write_json",
    "write_line",
    "write_table",
]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class ReaderGone(Exception):
    """The reader of standard output is gone (``| head``): nothing is left to do, and nothing went wrong."""


class Ended(Exception):
    """The verb has said what it had to say and ends with ``exit_code``."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def end(exit_code: int) -> NoReturn:
    """End the command with this status, without another word."""
    raise Ended(exit_code)


class _Examples(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **named: Any) -> None:
        super().__init__(*args, **named)
        self.examples = tuple(examples)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help, whole: the list of verbs wraps it."""
        return super().get_short_help_str(max(limit, 200))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one a line, unwrapped, then the epilog."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class Verb(_Examples):
    """A verb: ``@click.command(cls=Verb, examples=[...])``."""


class Group(_Examples, click.Group):
    """A verb with verbs of its own; shows its help when called without one."""

    def __init__(self, *args: Any, **named: Any) -> None:
        named.setdefault("no_args_is_help", False)
        super().__init__(*args, **named)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Show the help for an empty command line (status 0): nothing wrong was asked for."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that ``args`` begin with; wrong usage names the nearest, else all."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"no verb {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


class _Unit(click.ParamType):  # type: ignore[type-arg]
    """A quantity with a unit, read by a function of ``mqcore.units``."""

    def __init__(self, name: str, parser: str) -> None:
        self.name = name
        self._parser = parser

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or fail naming the text."""
        from mqcore import units

        try:
            return int(getattr(units, self._parser)(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


Duration = _Unit("duration", "parse_duration_ms")
"""Parameter type: "500 ms", "2 s"; a number of ms."""
Size = _Unit("size", "parse_bytes")
"""Parameter type: "2 MB", "64 KiB"; a number of bytes."""


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback that keeps an option's value in the settings when it was given."""

    def keep(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None and value != ():
            setattr(context.ensure_object(Settings), name, value)

    return keep


def _keep_timeout(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    if value is not None and value < 1:
        raise click.BadParameter("a server needs at least 1 ms to answer", context, parameter)
    _keep("timeout_ms")(context, parameter, value)
    _keep("timeout_is_given")(context, parameter, None if value is None else True)


def connection_options(function: F) -> F:
    """Decorator: the server, its time, and who one is there (user, token, certificate); read with ``current()``."""
    for name in reversed(TLS_OPTIONS):
        function = click.option(
            f"--{name}", metavar="FILE", expose_value=False, callback=_keep(name), help=TLS_OPTIONS[name]
        )(function)
    for name, (metavar, text) in reversed(LOGIN_OPTIONS.items()):
        function = click.option(
            f"--{name.replace('_', '-')}", metavar=metavar, expose_value=False, callback=_keep(name), help=text
        )(function)
    function = click.option(
        "--timeout",
        metavar="DURATION",
        type=Duration,
        expose_value=False,
        callback=_keep_timeout,
        help="How long a server may take to answer (10 s); exit status 4 after that.",
    )(function)
    return click.option(
        "--server",
        metavar="URL",
        multiple=True,
        expose_value=False,
        callback=_keep("servers"),
        help=f"A server; may be repeated, the first that answers is used. [{SERVER_VARIABLE}, else {DEFAULT_SERVER}]",
    )(function)


def output_options(function: F) -> F:
    """Decorator: ``--output text|json``; read it with ``current().output``."""
    return click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        expose_value=False,
        callback=_keep("output"),
        help="Text for people (the default), or JSON: one object, on streams one per line.",
    )(function)


def write_bytes(data: bytes) -> None:
    """Write to standard output, all of it.

    Raises ``ReaderGone`` when its reader is gone, ``OutputFailedError`` when it cannot be written. May block.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def write_line(text: str = "") -> None:
    """Write one line, as ``write_bytes`` does."""
    try:
        click.echo(text)
    except BrokenPipeError:
        raise ReaderGone from None


def write_json(value: object) -> None:
    """Write one JSON object on one line. attrs values become objects, bytes text or ``{"base64": ...}``."""
    write_line(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: object) -> object:
    if attrs.has(type(value)):
        return attrs.asdict(value, recurse=False)  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    return str(value)


def in_words(value: object, name: str = "") -> str:
    """Return a value as people read it: thousands set apart, lists by comma, a unit for what ends in ``_bytes``."""
    from mqcore import units

    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(each, name) for each in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return units.format_bytes(value) if name.endswith("_bytes") and value % 1024 == 0 else units.grouped(value)


def facts_in_words(facts: Mapping[str, object]) -> str:
    """Return facts in one line: each name and its value as ``in_words`` says it."""
    return ", ".join(f"{name} {in_words(value, name)}" for name, value in facts.items())


def write_table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> None:
    """Write rows under headings, columns aligned: numbers to the right, the last column as it is."""
    texts = [[in_words(cell) for cell in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(headings), *texts]) for index in range(len(headings))]
    numeric = [
        bool(rows) and all(isinstance(row[index], (int, float)) for row in rows) for index in range(len(headings))
    ]
    for line in [list(headings), *texts]:
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numeric, strict=True)
        ]
        write_line("  ".join(cells).rstrip())


class Progress(Protocol):
    """Shows how far long work has come."""

    def advance(self, amount: int) -> None:
        """Say that ``amount`` more is done."""

    def note(self, text: str) -> None:
        """Show ``text`` behind the bar from now on."""


class _Silent:
    def advance(self, amount: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Show ``text``."""
        self._bar.update(self._task, note=text)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Progress]:
    """Show a progress bar on standard error while a terminal watches it, else nothing. ``total`` None: unknown."""
    settings = current()
    if settings.json or not sys.stderr.isatty() or not sys.stdout.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    from mqcore.units import grouped

    class CompletedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(grouped(task.completed))

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        CompletedColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task(label, total=total, note=""))


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make the folder that ``--to`` names, unless it is there; the one above has to be, or a slip would make many."""
    try:
        if not os.path.isdir(path):
            os.mkdir(path)
    except FileNotFoundError:
        above = os.path.dirname(os.path.abspath(path))
        refuse(f"--to {os.fspath(path)}: {above} does not exist; make it first")
    except FileExistsError:
        refuse(f"--to {os.fspath(path)}: a file is in the way; name a folder")
    except OSError as error:
        refuse(f"--to {os.fspath(path)}: {error.strerror}; name a folder that this user may write to")


def run_async(function: Callable[..., Awaitable[R]], *args: object) -> R:
    """Run ``function(*args)`` on Trio and return its result; errors come out as they are, groups included.

    SIGTERM, where ``function`` does not take it, cancels it, so that it leaves in order; the status is 143 then.
    """
    import trio

    async def obey(everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                everything.cancel()

    async def until_terminated() -> R:
        results: list[R] = []
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(obey, nursery.cancel_scope)
            try:
                results.append(await function(*args))
            except BaseException as error:
                if nursery.cancel_scope.cancel_called:
                    raise
                failure = error  # raised outside, where no group is made around it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return results[0] if results else end(128 + signal.SIGTERM)

    with _warnings_told(current().json):
        return trio.run(until_terminated)


@contextmanager
def line_queue(stream: str, as_json: bool) -> Iterator[LineQueue]:
    """Give a queue of lines for ``stdout`` or ``stderr``, for what must not wait for a reader; closed at the end."""

    def render(dropped: int) -> str:
        text = f"mqcore: {dropped} lines were dropped before here"
        return json.dumps({"dropped_lines": dropped}) if as_json else text

    queue = LineQueue(lambda: getattr(sys, stream), render)
    try:
        yield queue
    finally:
        queue.close()


@contextmanager
def _warnings_told(as_json: bool) -> Iterator[None]:
    """Write what the library warns of, such as a server that is tried again, to standard error, a line each."""
    import logging

    with line_queue("stderr", as_json) as lines:

        class WarningHandler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                text = record.getMessage()
                lines.put(json.dumps({"warning": text}) if as_json else f"mqcore: {text}")

        logger, handler = logging.getLogger("mqcore"), WarningHandler(logging.WARNING)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def refuse(message: str) -> NoReturn:
    """Fail with status 2: an option that cannot be used, said in one line."""
    raise ConfigurationError(message)
