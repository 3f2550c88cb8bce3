"""What a broker says at its start of how it is composed: settings without effect, certificates that end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

import mqcore
from mqcore.abc import Notice, TransportContext
from mqcore.broker import NodeView, remarks_on
from mqcore.broker._remarks import CERTIFICATE_WARNING_S, remark_daily
from mqcore.config import BrokerConfig, make_config
from mqcore.registry import create_transport

NOW = datetime(2030, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PLAIN, SECRET = "tcp://127.0.0.1:0", "tls://127.0.0.1:0"


@pytest.fixture
def issue(tmp_path: Path) -> Callable[[timedelta], str]:
    """A file with key and certificate that is valid from a day before ``NOW`` until so long after it."""

    def issue(left: timedelta, begins: datetime = NOW - DAY) -> str:
        made = trustme.CA().issue_cert("127.0.0.1", not_before=min(begins, NOW + left - DAY), not_after=NOW + left)
        path = tmp_path / f"{abs(hash(left))}.pem"
        made.private_key_and_cert_chain_pem.write_to_path(str(path))
        path.chmod(0o600)
        return str(path)

    return issue


def remarks(**keys: Any) -> list[Notice]:
    config = make_config(**{"storage": "memory://", "flush": "none", "listen": [PLAIN], **keys})
    return remarks_on(config, composed(config), NOW.timestamp())


def composed(config: BrokerConfig) -> list[Any]:
    context = TransportContext(tls=config.tls)
    return [create_transport(each.url, context, each.options) for each in config.listen]


def kinds(notices: list[Notice]) -> list[str]:
    return [each.kind for each in notices]


def test_nothing_is_said_of_a_broker_that_is_well_composed(issue: Any) -> None:
    assert remarks() == []
    assert remarks(listen=[SECRET], tls={"cert": issue(365 * DAY)}) == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"cert": "c.pem", "key": "k.pem"}, "tls.cert (--tls-cert): without effect, as no listener encrypts (tcp://"),
        ({"client_ca": "ca.pem"}, "tls.client_ca (--client-ca): without effect"),
        ({"cert": "c.pem", "client_ca": "ca.pem"}, "tls.cert (--tls-cert) and tls.client_ca (--client-ca): without"),
    ],
)
def test_certificates_that_no_listener_shows_are_told(keys: dict[str, str], told: str) -> None:
    (notice,) = remarks(tls=keys)
    assert notice.kind == "tls-unused"
    assert told in notice.text
    assert "tls-unused" not in kinds(remarks(tls=keys, listen=[PLAIN, SECRET]))


def test_a_certificate_that_is_shown_to_the_other_nodes_is_not_unused() -> None:
    nodes = [{"name": name, "urls": [f"{scheme}://127.0.0.1:{port}"]}
             for name, scheme, port in (("a", "tcp", 7401), ("b", "tls", 7402))]  # fmt: skip
    cluster = {"sets": [{"name": "one", "nodes": nodes}]}
    keys = {"tls": {"cert": "c.pem"}, "name": "a", "listen": ["tcp://127.0.0.1:7401"]}
    assert kinds(remarks(cluster=cluster, **keys)) == []
    nodes[1]["urls"] = ["tcp://127.0.0.1:7402"]
    assert kinds(remarks(cluster=cluster, **keys)) == ["tls-unused"]


@pytest.mark.parametrize(
    ("name", "options", "listen", "remedy"),
    [
        ("tls", {}, [PLAIN, SECRET], "name client_ca (--client-ca) and listen on tls://"),
        ("unix", {}, [PLAIN, SECRET], "listen on unix:// too"),
        ("token", {"tokens": "/t"}, ["tcp://192.0.2.1:0"], "listen on tls:// or quic://"),
    ],
)
def test_an_authenticator_that_can_know_nobody_is_told(
    name: str, options: dict[str, str], listen: list[str], remedy: str
) -> None:
    access = {"authenticators": [{"name": name, **options}], "rules": [RULE]}
    (notice,) = remarks(access=access, listen=listen)
    assert notice.kind == "authenticator-unused"
    assert notice.text.startswith(f"the authenticator {name} can know nobody who comes by {listen[0]}")
    assert remedy in notice.text


RULE = {"principal": "*", "resource": "*", "operations": ["*"]}


@pytest.mark.parametrize(
    ("name", "options", "listen", "tls"),
    [
        ("tls", {}, [PLAIN, SECRET], {"client_ca": "ca.pem"}),
        ("unix", {}, [PLAIN, "unix:///s"], {}),
        ("token", {"tokens": "/t"}, [PLAIN], {}),
        ("token", {"tokens": "/t"}, ["tcp://192.0.2.1:0", SECRET], {}),
        ("scram-sha-256", {"users": "/u"}, ["tcp://192.0.2.1:0"], {}),
    ],
)
def test_an_authenticator_that_one_listener_serves_is_not(
    name: str, options: dict[str, str], listen: list[str], tls: dict[str, str]
) -> None:
    access = {"authenticators": [{"name": name, **options}], "rules": [RULE]}
    assert "authenticator-unused" not in kinds(remarks(access=access, listen=listen, tls=tls))


@pytest.mark.parametrize(("principal", "is_told"), [("user:a", False), ("user:b", True), (None, False)])
def test_a_node_that_logs_in_as_somebody_else_is_told(principal: str | None, is_told: bool) -> None:
    nodes = [{"name": "a", "urls": ["tcp://127.0.0.1:7401"], "principal": principal}]
    access = {
        "authenticators": [{"name": "scram-sha-256", "users": "/u"}],
        "rules": [RULE],
        "login": {"user": "a", "password_file": "/p"},
    }
    found = remarks(
        name="a", listen=["tcp://127.0.0.1:7401"], access=access, cluster={"sets": [{"name": "one", "nodes": nodes}]}
    )
    assert kinds(found) == (["node-is-another"] if is_told else [])


@pytest.mark.parametrize(
    ("left", "kind", "words"),
    [
        (timedelta(seconds=CERTIFICATE_WARNING_S + 1), None, ""),
        (
            timedelta(seconds=CERTIFICATE_WARNING_S),
            "certificate-expires",
            "expires in 14 days, on 2030-06-15 00:00 UTC",
        ),
        (timedelta(hours=5), "certificate-expires", "expires in 5 hours, on 2030-06-01 05:00 UTC"),
        (timedelta(0), "certificate-expired", "expired on 2030-06-01 00:00 UTC: write a new one over it"),
        (-3 * DAY, "certificate-expired", "expired on 2030-05-29 00:00 UTC"),
    ],
)
def test_a_certificate_that_ends_soon_is_told_with_file_date_and_remedy(
    issue: Any, left: timedelta, kind: str | None, words: str
) -> None:
    path = issue(left)
    found = remarks(listen=[SECRET], tls={"cert": path})
    assert kinds(found) == ([] if kind is None else [kind])
    for notice in found:
        assert notice.text.startswith(f"{SECRET}: the certificate {path} ")
        assert words in notice.text
        assert notice.facts["seconds_left"] == left.total_seconds()


def test_the_authority_of_clients_is_looked_at_too_and_a_clock_that_is_behind_is_told(issue: Any) -> None:
    good, over = issue(365 * DAY), issue(-2 * DAY)
    (notice,) = remarks(listen=[SECRET], tls={"cert": good, "client_ca": over})
    assert notice.text.startswith(f"{SECRET}: the authority of clients {over} expired on")
    made = trustme.CA().issue_cert("127.0.0.1", not_before=NOW + DAY, not_after=NOW + 99 * DAY)
    made.private_key_and_cert_chain_pem.write_to_path(good)
    (notice,) = remarks(listen=[SECRET], tls={"cert": good})
    assert notice.kind == "certificate-not-valid-yet"
    assert "not valid before 2030-06-02 00:00 UTC: is this machine's clock right?" in notice.text


@pytest.fixture
def short(tmp_path: Path) -> str:
    """A file with a certificate that ends in five days."""
    made = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=5))
    path = tmp_path / "own.pem"
    made.private_key_and_cert_chain_pem.write_to_path(str(path))
    path.chmod(0o600)
    return str(path)


def test_it_is_said_once_a_day(short: str) -> None:
    notices: list[Notice] = []
    listeners = composed(make_config(storage="memory://", listen=[SECRET], tls={"cert": short}))

    async def main() -> None:
        begin = datetime.now(UTC).timestamp()
        with trio.move_on_after(6 * 86_400 + 1):
            await remark_daily(listeners, lambda: begin + trio.current_time(), notices.append)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert kinds(notices) == ["certificate-expires"] * 4 + ["certificate-expired"] * 2


def test_nothing_waits_for_the_next_day_where_there_is_no_certificate() -> None:
    notices: list[Notice] = []

    async def main() -> float:
        begun = trio.current_time()
        await remark_daily(composed(make_config(storage="memory://", listen=[PLAIN])), lambda: 0.0, notices.append)
        return trio.current_time() - begun

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == 0
    assert notices == []


def test_a_broker_says_it_at_its_start_and_when_it_is_asked_and_measures_it(short: str) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        keys = {"storage": "memory://", "flush": "none", "listen": [SECRET], "tls": {"cert": short}}
        async with mqcore.open_broker(**keys, report=notices.append) as broker:
            assert kinds(notices) == ["certificate-expires"]
            broker.remark()
            assert kinds(notices) == ["certificate-expires"] * 2
            (family,) = [
                each for each in NodeView(broker).metrics() if each.metric.name == "mqcore_certificate_expiry_seconds"
            ]
            (((listener,), seconds),) = family.samples
            assert listener == SECRET
            assert 4 * 86_400 < seconds <= 5 * 86_400

    trio.run(main)
