"""What the author of a part states: what is tested, what it claims, which failures are known.

Read from ``[tool.mqcore.conformance]`` of the author's pyproject.toml and from the claims file that it names. A clause
is never left out in silence: only ``[[xfail]]`` with a reason and an issue changes how it counts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mqcore.config import read_toml
from mqcore.errors import ConfigurationError
from mqcore.registry import structure_options
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.verdicts import Status

__all__ = ["Claims", "Claimed", "KnownFailure", "load_claims", "read_settings"]


def _not_empty(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value.strip():
        raise ValueError(f"{attribute.name} must say something")


@attrs.frozen(kw_only=True)
class KnownFailure:
    """A clause that is known to fail: in which cells (a pattern), why, and where that is followed."""

    clause: str = attrs.field(validator=attrs.validators.in_(sorted(CHECKERS)))
    reason: str = attrs.field(validator=_not_empty)
    issue: str = attrs.field(validator=_not_empty)
    cell: str = "*"


@attrs.frozen(kw_only=True)
class Claimed:
    """What the storage claims; compared with its capabilities. Unset: whatever it declares."""

    append_level: str | None = None
    flush_level: str | None = None
    member_losses_survived: int | None = None
    simulable: bool | None = None


@attrs.frozen(kw_only=True)
class Claims:
    """A claims file."""

    claims: Claimed = attrs.field(factory=Claimed)
    xfail: tuple[KnownFailure, ...] = ()

    def judge(self, clause: str, cell: str, status: Status) -> Status:
        """Return what ``status`` counts as: a known failure is XFAIL, one that passes is XPASS. FAIL stays FAIL."""
        known = any(one.clause == clause and fnmatch.fnmatchcase(cell, one.cell) for one in self.xfail)
        if not known:
            return status
        if status in (Status.FAIL, Status.LIVENESS):
            return Status.XFAIL
        return Status.XPASS if status is Status.PASS else status

    def differences(self, capabilities: object) -> list[str]:
        """Return each claim that the part's declared capabilities do not bear out."""
        found = []
        for field in attrs.fields(Claimed):
            claimed = getattr(self.claims, field.name)
            declared = getattr(capabilities, field.name, None)
            declared = getattr(declared, "label", declared)
            if claimed is not None and claimed != declared:
                found.append(f"claimed {field.name} = {claimed!r}, the part declares {declared!r}")
        return found


def load_claims(path: Path) -> Claims:
    """Return the claims of a TOML file; ``ConfigurationError`` names the file, the key and what is allowed."""
    return structure_options(Claims, read_toml(path), str(path))


def read_settings(root: Path) -> Mapping[str, Any]:
    """Return ``[tool.mqcore.conformance]`` of the pyproject.toml in ``root``, empty when there is none."""
    path = root / "pyproject.toml"
    if not path.exists():
        return {}
    tool = read_toml(path).get("tool", {})
    found = tool.get("mqcore", {}).get("conformance", {}) if isinstance(tool, dict) else {}
    known = ("storage", "transport", "claims", "seeds", "tiers", "families")
    for key in found:
        if key not in known:
            raise ConfigurationError(f"{path}: tool.mqcore.conformance.{key} is no key; known: {', '.join(known)}")
    return dict(found)
