"""What an operator should know of how a broker is composed though it starts: at each start, and before one.

One list, whatever it is about: who may come in, files that nothing uses, certificates that end. Beside it what is wrong
with a file that the configuration names. Must not know how a remark is shown, nor listen anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import trio

from mqcore.abc import AccessContext, Authenticator, Notice, TlsOptions, Transport, TransportContext
from mqcore.broker._gate import check_exposure
from mqcore.certificates import (
    Validity,
    load_client_files,
    open_key_text,
    validity_of_authorities,
    validity_of_own,
)
from mqcore.config import BrokerConfig
from mqcore.errors import MqcoreError
from mqcore.registry import create_authenticator, create_transport

__all__ = [
    "CERTIFICATE_WARNING_S",
    "certificate_notices",
    "file_problems",
    "open_key_notices",
    "remark_daily",
    "remarks_on",
    "seconds_until_expiry",
]

CERTIFICATE_WARNING_S = 14 * 86_400
"""How long before its end a certificate is spoken of: long enough for who is on holiday."""
_DAY_S = 86_400


def remarks_on(config: BrokerConfig, listeners: Sequence[Transport], now_s: float) -> list[Notice]:
    """Return what is to be said of ``config``, whose ``listeners`` were composed, at each start.

    ``now_s``: seconds since 1970 UTC. Reads certificates. Raises ``ConfigurationError`` as ``check_exposure`` does.
    """
    found: list[Notice] = []
    exposure = check_exposure(config, listeners)
    if exposure is not None:
        found.append(Notice("insecure", exposure))
    found += _without_rules(config)
    found += _unused_files(config, listeners)
    found += _unused_authenticators(config, listeners)
    found += _another_principal(config)
    found += certificate_notices(listeners, now_s)
    return found


def _without_rules(config: BrokerConfig) -> Iterator[Notice]:
    table = config.access
    if table is not None and not table.all_rules and table.authorizer == "rules":
        yield Notice("access-without-rules", "[access] has no rules: every operation will be denied")


def _unused_files(config: BrokerConfig, listeners: Sequence[Transport]) -> Iterator[Notice]:
    """Files of TLS that nobody is ever shown and that nobody is held against."""
    files, urls = config.tls, ", ".join(str(each.url) for each in listeners) or "nowhere"
    listens_encrypted = any(each.capabilities.encrypted for each in listeners)
    connects_encrypted = any(each.capabilities.encrypted for each in _others(config))
    named = [
        (files.cert, "cert (--tls-cert)", listens_encrypted or connects_encrypted),
        (files.client_ca, "client_ca (--client-ca)", listens_encrypted),
    ]
    unused = [name for path, name, is_used in named if path is not None and not is_used]
    if unused:
        text = f"tls.{' and tls.'.join(unused)}: without effect, as no listener encrypts ({urls}): listen on tls:// too"
        yield Notice("tls-unused", text, {"keys": unused})


def _others(config: BrokerConfig) -> Iterator[Transport]:
    """What this node connects to the others of its cluster with."""
    context = TransportContext(tls=config.tls)
    for each in config.cluster.sets if config.cluster is not None else ():
        for url in (url for node in each.nodes if node.name != config.name for url in node.urls):
            yield create_transport(url, context)


def _unused_authenticators(config: BrokerConfig, listeners: Sequence[Transport]) -> Iterator[Notice]:
    """Ways of knowing somebody that no listener has any use for."""
    for each in _authenticators(config):
        lacking = list(dict.fromkeys(each.lacks(listener) for listener in listeners))
        if lacking and all(lacking):
            urls = ", ".join(str(listener.url) for listener in listeners)
            text = f"the authenticator {each.name} can know nobody who comes by {urls}: {'; '.join(lacking)}"
            yield Notice("authenticator-unused", text, {"authenticator": each.name})


def _another_principal(config: BrokerConfig) -> Iterator[Notice]:
    """A node that logs in as a user that the others do not take for it."""
    node = None if config.own_set is None else config.own_set.node(config.name)
    user = None if config.access is None else config.access.login.user
    if node is None or user is None or node.principal in (None, f"user:{user}"):
        return
    text = (
        f"node {node.name} is {node.principal}, and logs in to the others as user:{user}, which they will not take for "
        "it: name the one in access.login, or as its principal"
    )
    yield Notice("node-is-another", text, {"node": node.name, "user": user})


def _authenticators(config: BrokerConfig) -> list[Authenticator]:
    tables = config.access.authenticators if config.access is not None else ()
    return [create_authenticator(each.name, AccessContext(), each.options) for each in tables]


def open_key_notices(listeners: Iterable[Transport]) -> list[Notice]:
    """Return what ``listeners`` say by themselves of their keys, as soon as they listen: for who does not."""
    found = []
    for each in listeners:
        key = each.files.key or each.files.cert
        if key is not None and (text := open_key_text(key, str(each.url))):
            found.append(Notice("key-file-readable", text, {"url": str(each.url), "path": key}))
    return found


# certificates


@attrs.frozen
class _Dated:
    """A file of a listener's, and for how long it is good for anything."""

    url: str
    path: str
    what: str
    validity: Validity

    def notice(self, now_s: float) -> Notice | None:
        """What is to be said of it; None for one that is good for longer."""
        left_s = self.validity.ends_s - now_s
        facts: dict[str, object] = {"url": self.url, "path": self.path, "seconds_left": round(left_s)}
        where = f"{self.url}: {self.what} {self.path}"
        renew = "write a new one over it, which is read at the next handshake"
        if now_s < self.validity.begins_s:
            text = f"{where} is not valid before {self.validity.begins}: is this machine's clock right?"
            return Notice("certificate-not-valid-yet", text, facts)
        if left_s <= 0:
            return Notice("certificate-expired", f"{where} expired on {self.validity.ends}: {renew}", facts)
        if left_s <= CERTIFICATE_WARNING_S:
            days = f"in {round(left_s / _DAY_S)} days" if left_s > 2 * _DAY_S else f"in {round(left_s / 3600)} hours"
            return Notice("certificate-expires", f"{where} expires {days}, on {self.validity.ends}: {renew}", facts)
        return None


def _dated(listeners: Iterable[Transport]) -> Iterator[_Dated]:
    for each in listeners:
        files, url = each.files, str(each.url)
        if files.cert is not None and (own := validity_of_own(files.cert)) is not None:
            yield _Dated(url, files.cert, "the certificate", own)
        if files.client_ca is not None and (theirs := validity_of_authorities(files.client_ca)) is not None:
            yield _Dated(url, files.client_ca, "the authority of clients", theirs)


def certificate_notices(listeners: Iterable[Transport], now_s: float) -> list[Notice]:
    """Return what is to be said of the certificates of ``listeners``: expired, soon so, or not valid yet.

    Reads the files. What cannot be read is left out: that is not about dates.
    """
    return [notice for each in _dated(listeners) if (notice := each.notice(now_s)) is not None]


async def remark_daily(
    listeners: Sequence[Transport], now_s: Callable[[], float], report: Callable[[Notice], None]
) -> None:
    """Say once a day what is to be said of the certificates of ``listeners``, until cancelled."""
    while any(each.files.cert is not None or each.files.client_ca is not None for each in listeners):
        await trio.sleep(_DAY_S)
        for notice in certificate_notices(listeners, now_s()):
            report(notice)


def seconds_until_expiry(listener: Transport, now_s: float) -> float | None:
    """Return for how long what ``listener`` shows is valid, less than 0 once it is not; None where it shows nothing."""
    path = listener.files.cert
    validity = None if path is None or not listener.capabilities.encrypted else validity_of_own(path)
    return None if validity is None else validity.ends_s - now_s


# files


def file_problems(config: BrokerConfig, listeners: Sequence[Transport], now_s: float) -> list[str]:
    """Return, a line each, what is wrong with the files that ``config`` names: with it no broker starts, or no peer
    comes in. Reads all of them, and keeps nothing.
    """
    problems: dict[str, None] = {}
    for each in listeners:
        try:
            each.check_files()
        except MqcoreError as error:
            problems[str(error)] = None
    for other in _others(config):
        if other.capabilities.encrypted:
            problems.update(dict.fromkeys(_client_problems(other.files)))
    for authenticator in _authenticators(config):
        try:
            authenticator.open()
        except MqcoreError as error:
            problems[f"authenticator {authenticator.name}: {error}"] = None
    if config.access is not None:
        try:
            config.access.login.credentials()
        except MqcoreError as error:
            problems[f"access.login: {error}"] = None
    expired = ("certificate-expired", "certificate-not-valid-yet")
    problems.update({each.text: None for each in certificate_notices(listeners, now_s) if each.kind in expired})
    return list(problems)


def _client_problems(files: TlsOptions) -> Iterator[str]:
    try:
        load_client_files(files.ca, files.cert, files.key, "when this node connects to others")
    except MqcoreError as error:
        yield str(error)
