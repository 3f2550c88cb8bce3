"""The verb ``cert``: makes certificates for development (``mqcore cert dev``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Command

if TYPE_CHECKING:
    import click

__all__ = ["CertCommand"]


class CertCommand(Command):
    """The verb ``cert``."""

    summary = "Make an authority and certificates for development."

    def build(self) -> click.Command:
        """Return the group ``cert`` with its verbs."""
        from mqcore_cert_command._command import cert

        return cert
