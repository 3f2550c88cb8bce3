"""A contract check that failed: one screen of explanation, and a folder from which it is done again.

The folder holds the check's name, the part's URL, the seed and the fewest steps: data, checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore.registry import structure_options
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.claims import Claims
from mqcore_conformance.contract._authenticator_harness import AuthenticatorHarness
from mqcore_conformance.contract._checks import CHECKS, Check, CheckResult, Harness, Step, run_check
from mqcore_conformance.contract._coordinator_harness import CoordinatorHarness
from mqcore_conformance.contract._login_control import LoginControl, login_control_of
from mqcore_conformance.contract._offset_store_harness import OffsetStoreHarness
from mqcore_conformance.contract._parts import require_part
from mqcore_conformance.contract._server_control import name_of_server, use_server
from mqcore_conformance.contract._storage import StorageHarness
from mqcore_conformance.contract._transport import TransportHarness

HARNESSES: Mapping[str, Callable[[str, Path], Harness]] = {
    "storage": StorageHarness,
    "transport": TransportHarness,
    "coordinator": CoordinatorHarness,
    "offset_store": OffsetStoreHarness,
    "authenticator": AuthenticatorHarness,
}
CHECK_FILE = "check.json"
FILE_BYTES_MAX = 1024 * 1024
STEPS_MAX = 1_000
LINES_MAX, COLUMNS_MAX = 24, 100
STEP_LINES_MAX, PRINTED_LINES_MAX = 8, 3


@attrs.frozen(kw_only=True)
class CheckRepro:
    """What it takes to run a check again as it failed."""

    check: Check
    url: str
    seed: int = 0
    steps: tuple[Step, ...] = ()
    seconds_max: float | None = None
    claims: Claims = attrs.field(factory=Claims)


def check_part(
    one: Check,
    url: str,
    *,
    folder: Path | None = None,
    seed: int | None = None,
    steps: Sequence[Step] = (),
    seconds_max: float | None = None,
    claims: Claims | None = None,
) -> CheckResult:
    """Run a check on the part at ``url`` (with ``{dir}``) in a fresh folder, which is made in ``folder``."""
    harness = HARNESSES[one.kind]
    with tempfile.TemporaryDirectory(prefix="mqcore-", dir=folder, ignore_cleanup_errors=True) as place:
        return run_check(
            one, partial(harness, url), Path(place), seed=seed, steps=steps, seconds_max=seconds_max, claims=claims
        )


def write_check_repro(
    folder: Path, url: str, result: CheckResult, seconds_max: float | None = None, claims: Claims | None = None
) -> str:
    """Write what replays ``result``, and its explanation, under ``folder/repro``; return the path in ``folder``."""
    one = result.check
    name = hashlib.blake2b(f"{one.name} {url}".encode(), digest_size=4).hexdigest()
    place = folder / "repro" / name
    place.mkdir(parents=True, exist_ok=True)
    data = {
        "check": one.name,
        "url": url,
        "seed": result.seed,
        "steps": [dict(step) for step in result.steps],
        "seconds_max": seconds_max,
        "server": _control_of(one.kind, url),
        "claims": attrs.asdict((claims or Claims()).claims, filter=lambda _, value: value is not None),
    }
    (place / CHECK_FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    lines = explain_check(url, result, place)
    (place / "failure.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"repro/{name}"


def _control_of(kind: str, url: str) -> str:
    """Return ``MODULE:CLASS`` of what an author gave for the part at ``url``; empty when that is nothing."""
    if kind == "authenticator":
        found = login_control_of(url)
        return "" if found.__module__ == LoginControl.__module__ else f"{found.__module__}:{found.__qualname__}"
    return name_of_server(url) if kind in ("coordinator", "offset_store") else ""


def load_check_repro(path: Path) -> CheckRepro:
    """Return what a repro folder holds; ``ConfigurationError`` names the file and what is wrong with it."""
    file = path / CHECK_FILE
    try:
        with file.open("rb") as opened:
            text = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}; name a folder of report/repro") from None
    try:
        data = json.loads(text) if len(text) <= FILE_BYTES_MAX else None
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ConfigurationError(f"{file}: no repro of a check; name a folder of report/repro as a run wrote it")
    return _checked(data, file)


def _checked(data: dict[str, Any], file: Path) -> CheckRepro:
    one = CHECKS.get(str(data.get("check")))
    if one is None:
        raise ConfigurationError(f"{file}: no check is called {data.get('check')!r}; run the suite again")
    steps, url, seed, seconds_max = (data.get(key) for key in ("steps", "url", "seed", "seconds_max"))
    sane = isinstance(url, str) and isinstance(seed, int) and isinstance(seconds_max, int | float | None)
    if not sane or not isinstance(steps, list) or len(steps) > STEPS_MAX:
        raise ConfigurationError(f"{file}: url, seed, steps or seconds_max cannot be; run the suite again")
    for step in steps:
        one.tell(step)
    if data.get("server"):
        use_server(str(data["server"]))
    claimed = structure_options(Claims, {"claims": data.get("claims", {})}, str(file))
    return CheckRepro(
        check=one, url=str(url), seed=int(str(seed)), steps=tuple(steps), seconds_max=seconds_max, claims=claimed
    )


def replay_check(repro: CheckRepro) -> CheckResult:
    """Run the check of a repro again; ``ConfigurationError`` when its part is not installed."""
    require_part(repro.check.kind, repro.url)
    return check_part(
        repro.check,
        repro.url,
        seed=repro.seed,
        steps=repro.steps,
        seconds_max=repro.seconds_max,
        claims=repro.claims,
    )


def replay_command(place: Path) -> str:
    """Return the line that replays the repro in ``place``."""
    near = os.path.relpath(place)
    return f"mqcore conformance replay {shlex.quote(min(str(place), near, key=len))}"


def explain_check(url: str, result: CheckResult, place: Path | None = None) -> list[str]:
    """Return one screen: what was promised, what was seen, the steps to it, and how to see it again."""
    one = result.check
    lines = [*_paragraph("", f"{one.clause} {CLAUSES[one.clause].name}: {one.kind} {printable(url)}", 2)]
    lines += _paragraph("check", one.name, 1)
    lines += _paragraph("promised", one.summary, 3)
    observed = result.text or ("it holds" if result.status.value == "PASS" else result.status.value)
    lines += _paragraph("observed", observed, 7)
    steps = [f"{number}. {one.tell(step)}" for number, step in enumerate(result.steps, 1)]
    if len(steps) > STEP_LINES_MAX:
        steps = [*steps[: STEP_LINES_MAX - 2], f"... {len(steps) - STEP_LINES_MAX + 1} more", steps[-1]]
    for number, step in enumerate(steps):
        lines += _paragraph("steps" if number == 0 else " ", step, 1)
    printed = [line for line in printable(result.output, lines=True).splitlines() if line.strip()]
    for number, line in enumerate(printed[-PRINTED_LINES_MAX:]):
        lines += _paragraph("printed" if number == 0 else " ", line, 1)
    lines = lines[: LINES_MAX - 1]
    if place is not None:
        lines.append(f"{'replay':9} {replay_command(place)}")
    return lines


def _paragraph(label: str, text: str, lines_max: int) -> list[str]:
    start = f"{label:9} " if label else ""
    return textwrap.wrap(
        text,
        COLUMNS_MAX,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        max_lines=lines_max,
        placeholder=" ...",
    )
