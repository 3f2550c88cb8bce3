"""Options of the authenticators and of the authorizer."""

from __future__ import annotations

import attrs

__all__ = ["NoOptions", "ScramOptions", "TokenOptions"]


@attrs.frozen(kw_only=True)
class NoOptions:
    """Nothing to choose."""


@attrs.frozen(kw_only=True)
class ScramOptions:
    """Options of ``scram-sha-256``."""

    users: str = attrs.field(metadata={"help": "file of verifiers, as `mqcore user add` writes it; its owner's only"})


@attrs.frozen(kw_only=True)
class TokenOptions:
    """Options of ``token``."""

    tokens: str = attrs.field(metadata={"help": "file of lines NAME TOKEN; readable by its owner only"})
