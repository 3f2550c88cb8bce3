"""``mqcore user``, loaded when it is typed: an authenticator that a broker loads brings no command line with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Command

if TYPE_CHECKING:
    import click

__all__ = ["UserCommand"]


class UserCommand(Command):
    """The verb ``user``."""

    summary = "Add, list and delete the users of a broker, and change their passwords."

    def build(self) -> click.Command:
        """Return the group of verbs."""
        from mqcore_access._user_verbs import user

        return user
