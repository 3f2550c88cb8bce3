"""Where a part under test is and what it raised, in one line each: the innermost place in its own files.

Files of the interpreter, of Trio and Hypothesis, of mqcore's core and of the suite are not the part's. Decides nothing.
"""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType

import attrs
import hypothesis
import outcome
import trio

import mqcore

__all__ = [
    "Place",
    "innermost_of_check",
    "innermost_of_part",
    "is_raised_by_suite",
    "leaves",
    "places_of_frame",
    "places_of_tasks",
    "printable",
    "remember_tasks",
    "tell_exception",
]

TEXT_CHARS_MAX = 300
LINE_CHARS_MAX = 60
TASKS_MAX = 2_000


def _package(module: object) -> str:
    return str(Path(str(getattr(module, "__file__", ""))).parent) + "/"


_SUITE = str(Path(__file__).parent.parent) + "/"
_OTHERS = (
    sysconfig.get_path("stdlib") + "/",
    *(_package(module) for module in (trio, outcome, hypothesis, mqcore)),
    _SUITE,
    "<",
)
_CHECKS = _SUITE + "contract/"
_RUNNERS = ("_checks.py", "_repro.py")
"""Files of checks that run them and are none."""
_INSTALLED = ("/site-packages/", "/dist-packages/")


@attrs.frozen
class Place:
    """A line of a function."""

    file: str
    line: int
    function: str

    @property
    def is_of_part(self) -> bool:
        """Whether it belongs to nobody else that is known here."""
        if self.file.startswith(_OTHERS[1:]):
            return False
        # site-packages lies below the standard library's folder
        return not self.file.startswith(_OTHERS[0]) or any(name in self.file for name in _INSTALLED)

    @property
    def is_of_check(self) -> bool:
        """Whether it stands in a file of checks."""
        return self.file.startswith(_CHECKS) and not self.file.endswith(_RUNNERS)

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()[:LINE_CHARS_MAX]
        text = f": {printable(source)}" if source else ""
        return f"{self.function} ({Path(self.file).name}, line {self.line}{text})"


def innermost_of_part(places: Sequence[Place]) -> Place | None:
    """Return the last of ``places`` (outermost first) that is the part's own."""
    return next((place for place in reversed(places) if place.is_of_part), None)


def innermost_of_check(places: Sequence[Place]) -> Place | None:
    """Return the last of ``places`` (outermost first) that is a check's own: what it waits for stands there."""
    return next((place for place in reversed(places) if place.is_of_check), None)


def places_of_frame(frame: FrameType | None, outermost: str = "") -> list[Place]:
    """Return where a thread is, outermost first, up to the first frame of the file ``outermost``."""
    places = []
    while frame is not None and frame.f_code.co_filename != outermost:
        places.append(Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname))
        frame = frame.f_back
    return places[::-1]


_root: trio.lowlevel.Task | None = None


def remember_tasks() -> None:
    """Call it in Trio: from now on ``places_of_tasks`` knows this run's tasks, from any thread."""
    global _root
    _root = trio.lowlevel.current_root_task()


def places_of_tasks() -> list[Place]:
    """Return where the tasks of the remembered run wait, one after the other, outermost first."""
    if _root is None:
        return []
    return [
        Place(frame.f_code.co_filename, line, frame.f_code.co_qualname)
        for task in tasks_below(_root)
        for frame, line in task.iter_await_frames()
    ]


def tasks_below(root: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Give every task of a run, parents first, at most ``TASKS_MAX``."""
    waiting = [root]
    for _ in range(TASKS_MAX):
        if not waiting:
            return
        task = waiting.pop(0)
        yield task
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def leaves(error: BaseException) -> Iterable[BaseException]:
    """Return the exceptions in a group, however deep; an exception alone is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        return tuple(leaf for each in error.exceptions for leaf in leaves(each))
    return (error,)


def tell_exception(error: BaseException) -> str:
    """Return what was raised, and where in the part, in one line; whatever the exception is like."""
    found = list(leaves(error))
    cause = found[0] if found else error
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    places = _places_of_traceback(cause.__traceback__)
    where = innermost_of_part(places) or (places[-1] if places and not _text_of(cause) else None)
    place = f" in {where}" if where is not None else ""
    text = _text_of(cause)
    return f"it raised {type(cause).__name__}{more}{place}" + (f": {text}" if text else "")


def is_raised_by_suite(error: BaseException) -> bool:
    """Return whether the innermost place of an exception is the suite's: no part raised it."""
    places = _places_of_traceback(error.__traceback__)
    return bool(places) and places[-1].file.startswith(_SUITE)


def _places_of_traceback(traceback: TracebackType | None) -> list[Place]:
    places = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(Place(code.co_filename, traceback.tb_lineno, code.co_qualname))
        traceback = traceback.tb_next
    return places


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:
        return "(its text raises, too)"
    return printable(text)[:TEXT_CHARS_MAX]


def printable(text: str, *, lines: bool = False) -> str:
    """Return ``text`` with everything that a terminal would obey escaped; on one line unless ``lines``."""
    if not lines:
        text = " ".join(text.split())
    return "".join(
        letter if letter.isprintable() or (lines and letter == "\n") else letter.encode("unicode_escape").decode()
        for letter in text
    )
