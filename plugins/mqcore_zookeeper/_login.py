"""What the parts on ZooKeeper have in common: whom to ask, below which node, and as whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mqcore.abc import Url
from mqcore.ensembles import EnsembleMember, client_tls, parse_ensemble, read_secret
from mqcore.errors import ConfigurationError
from mqcore_zookeeper._config import ZookeeperOptions
from mqcore_zookeeper._session import ZookeeperSession

__all__ = ["session_opener"]

_PORT, _PREFIX = 2181, "mqcore"


def session_opener(
    url: Url, options: ZookeeperOptions
) -> tuple[list[EnsembleMember], str, Callable[[EnsembleMember], Awaitable[ZookeeperSession]]]:
    """Return the servers of ``url``, its prefix, and what opens a session with one of them.

    Raises ``ConfigurationError``.
    """
    members, prefix = parse_ensemble(url, _PORT, _PREFIX)
    if bool(options.user) != bool(options.password_file):
        raise ConfigurationError(f"{url}: user and password_file go together; give both or neither")
    password = read_secret("password_file", options.password_file)
    credentials = f"{options.user}:{password}" if options.user else ""
    tls = client_tls(options.ca_file, options.certificate_file, options.key_file) if options.tls else None

    async def open_session(member: EnsembleMember) -> ZookeeperSession:
        return await ZookeeperSession.open(member, tls, credentials)

    return members, prefix, open_session
