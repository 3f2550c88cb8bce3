"""Certificates for transports that encrypt: one authority and one certificate for a run, told by the URL's options.

Any transport whose options are ``TlsOptions`` is given them, so that the suite runs on a stranger's as on ours.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile

from mqcore.abc import TlsOptions
from mqcore.errors import MqcoreError
from mqcore.registry import find
from mqcore.url import Url

__all__ = ["with_certificates", "with_options_of"]

FOLDER_VARIABLE = "MQCORE_CONFORMANCE_CERTIFICATES"
"""Where the processes that this one starts find them."""


def with_certificates(text: str) -> str:
    """Return the URL of a transport with ``cert`` and ``ca`` if it takes them and has none.

    Not with ``client_ca``: an engine may be unable to ask for certificates, and says so.
    """
    try:
        url = Url.parse(text)
        takes = issubclass(find("transports", url.scheme).options_class, TlsOptions)
    except MqcoreError:
        return text  # whoever uses it says what is wrong with it
    if not takes or "cert" in url.query:
        return text
    folder = _folder()
    own = {"cert": f"{folder}/node.pem", "ca": f"{folder}/ca.pem"}
    return str(Url(url.scheme, url.rest, {**url.query, **own}))


def with_options_of(url: Url, text: str) -> Url:
    """Return ``url``, the one that a listener of ``text`` has, with that one's options: its clients need them too."""
    return Url(url.scheme, url.rest, Url.parse(text).query)


@functools.cache
def _folder() -> str:
    if given := os.environ.get(FOLDER_VARIABLE):
        return given
    import trustme

    folder = tempfile.mkdtemp(prefix="mqcore-conformance-certificates-")
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    # RSA: its signatures have one length, and a run from a seed has the same number of bytes every time.
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(f"{folder}/ca.pem")
    made = authority.issue_cert("localhost", "127.0.0.1", "::1", key_type=trustme.KeyType.RSA)
    made.private_key_and_cert_chain_pem.write_to_path(f"{folder}/node.pem")
    os.chmod(f"{folder}/node.pem", 0o600)
    os.environ[FOLDER_VARIABLE] = folder
    return folder
