"""Table ``[access]``: who may connect, what they may do, and who this node is when it connects to others.

Must not know which authenticators and authorizers there are: their options are handed on as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mqcore.abc import AccessRule, Credentials, read_credentials
from mqcore.config._own_name import with_own_name

__all__ = ["AccessTable", "AuthenticatorTable", "LoginTable", "access_table"]


@attrs.frozen(kw_only=True)
class AuthenticatorTable:
    """Table ``[[access.authenticators]]``, or its name alone: one way of knowing who a peer is."""

    name: str = attrs.field(
        metadata={"help": "the authenticator: tls, unix, scram-sha-256, token, or an installed one"}
    )
    options: Mapping[str, object] = attrs.field(factory=dict, metadata={"help": "options of the authenticator"})


@attrs.frozen(kw_only=True)
class LoginTable:
    """Table ``[access.login]``: as whom this node logs in to the other nodes of its set."""

    user: str | None = attrs.field(default=None, metadata={"help": "name of the user that this node is"})
    password_file: str | None = attrs.field(default=None, metadata={"help": "file with that user's password"})
    token_file: str | None = attrs.field(default=None, metadata={"help": "file with this node's token"})

    def credentials(self) -> Credentials | None:
        """Return what the files say; None where none is named. Raises ``ConfigurationError``."""
        return read_credentials(user=self.user, password_file=self.password_file, token_file=self.token_file)


@attrs.frozen(kw_only=True)
class AccessTable:
    """Table ``[access]``: once there is one, what no rule allows is denied."""

    authenticators: tuple[AuthenticatorTable, ...] = attrs.field(
        default=(), metadata={"help": "who peers are; where there is one, a peer that none knows is refused"}
    )
    authorizer: str = attrs.field(default="rules", metadata={"help": "who decides; rules: the rules below"})
    nodes: tuple[str, ...] = attrs.field(
        default=(),
        metadata={"help": "patterns of principals that are nodes of this cluster: they may do everything"},
    )
    rules: tuple[AccessRule, ...] = attrs.field(
        default=(), metadata={"help": "what is allowed and denied, a table each"}
    )
    login: LoginTable = attrs.field(factory=LoginTable, metadata={"help": "as whom this node logs in to others"})

    def of_node(self, name: str) -> AccessTable:
        """Return the table of the node ``name``: rules are of the cluster, the files of logins are its own."""
        return attrs.evolve(
            self, authenticators=with_own_name(self.authenticators, name), login=with_own_name(self.login, name)
        )

    @property
    def all_rules(self) -> tuple[AccessRule, ...]:
        """The rules, and what ``nodes`` stands for behind them: a rule that denies denies a node too."""
        nodes = [AccessRule(principal=each, resource="*", operations=("*",)) for each in self.nodes]
        return (*self.rules, *nodes)


def access_table(raw: Any) -> Any:
    """Return the table with its short forms written out; wrong kinds of values are left to the structuring."""
    if isinstance(raw, AccessTable) or not isinstance(raw, Mapping):
        return raw
    table = dict(raw)
    if isinstance(table.get("authenticators"), list | tuple):
        table["authenticators"] = [_authenticator(each) for each in table["authenticators"]]
    if isinstance(table.get("rules"), list | tuple):
        table["rules"] = [_rule(each) for each in table["rules"]]
    return table


def _authenticator(raw: Any) -> Any:
    if isinstance(raw, str):
        return {"name": raw}
    if not isinstance(raw, Mapping) or "options" in raw:
        return raw
    return {"name": raw.get("name", ""), "options": {key: value for key, value in raw.items() if key != "name"}}


def _rule(raw: Any) -> Any:
    if isinstance(raw, Mapping) and isinstance(raw.get("operations"), str):
        return {**raw, "operations": [raw["operations"]]}
    return raw
