"""Options of the parts on PostgreSQL: the query of its URL or its table in a configuration file."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["PostgresOptions"]


@attrs.frozen(kw_only=True)
class PostgresOptions:
    """Options of ``postgres://``."""

    user: str = attrs.field(default="mqcore", metadata={"help": "user to connect as; it owns the tables"})
    password_file: str | None = attrs.field(
        default=None,
        metadata={"help": "file whose first line is that user's password; unset: the server asks for none"},
    )
    # libpq's own default, "prefer", falls back to plain text when a server, or what stands in for it, says so.
    tls: Literal["verify-full", "disable"] = attrs.field(
        default="verify-full",
        metadata={"help": "whether to speak TLS and verify the server's name, or plain text on a network that is safe"},
    )
    ca_file: str | None = attrs.field(
        default=None, metadata={"help": "PEM file of the authority that signed the servers; unset: the system's"}
    )
