"""TLS over TCP: ``tls://HOST:PORT``. Both ends prove who they are by certificates, the client where it is asked."""

from mqcore_tls._transport import TlsTransport

__all__ = ["TlsTransport"]
