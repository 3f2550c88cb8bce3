"""Options of the parts on ZooKeeper: the query of its URL or its table in a configuration file."""

from __future__ import annotations

import attrs

__all__ = ["ZookeeperOptions"]


@attrs.frozen(kw_only=True)
class ZookeeperOptions:
    """Options of ``zookeeper://``."""

    user: str | None = attrs.field(
        default=None, metadata={"help": "user of the scheme digest, who alone may use the nodes; unset: anyone may"}
    )
    password_file: str | None = attrs.field(
        default=None, metadata={"help": "file whose first line is that user's password"}
    )
    tls: bool = attrs.field(default=False, metadata={"help": "speak TLS and verify the servers' names"})
    ca_file: str | None = attrs.field(
        default=None, metadata={"help": "PEM file of the authority that signed the servers; unset: the system's"}
    )
    certificate_file: str | None = attrs.field(
        default=None, metadata={"help": "PEM file of the certificate to show; ZooKeeper asks for one by default"}
    )
    key_file: str | None = attrs.field(
        default=None, metadata={"help": "PEM file of its key, if that is a file of its own"}
    )
