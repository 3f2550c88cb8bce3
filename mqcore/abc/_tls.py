"""Whose certificates an end shows and believes: one value for every transport that encrypts, listening or connecting.

Paths only: who reads the files, and when again, is the transport's business. Must not know of any TLS library.
"""

from __future__ import annotations

import attrs

__all__ = ["TlsOptions"]


def _path(help: str) -> str | None:
    value: str | None = attrs.field(default=None, metadata={"help": help})
    return value


@attrs.frozen(kw_only=True)
class TlsOptions:
    """Files in PEM form. An end that listens needs ``cert`` and ``key``; one that connects needs them to be known.

    ``ca`` and ``client_ca`` are apart, so that who may be a server and who may be a client can be told apart.
    """

    cert: str | None = _path(
        "PEM file of the own certificate, with those between it and the authority's; {name}: the broker's name"
    )
    key: str | None = _path("PEM file of the key of the own certificate; readable by its owner only")
    ca: str | None = _path("PEM file of the authorities that servers are believed by; unset: those of the system")
    client_ca: str | None = _path(
        "PEM file of the authorities that clients must show a certificate of; unset: clients stay unknown"
    )
    server_name: str | None = _path("name that a server's certificate must have, where it is not the URL's host")

    def over(self, other: TlsOptions) -> TlsOptions:
        """Return these options with what is unset here taken from ``other``; ``cert`` and ``key`` go together."""
        own_pair = self.cert is not None or self.key is not None
        return TlsOptions(
            cert=self.cert if own_pair else other.cert,
            key=self.key if own_pair else other.key,
            ca=self.ca if self.ca is not None else other.ca,
            client_ca=self.client_ca if self.client_ca is not None else other.client_ca,
            server_name=self.server_name if self.server_name is not None else other.server_name,
        )
