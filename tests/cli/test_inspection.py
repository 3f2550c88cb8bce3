"""explain and config check look at the files that a configuration names: a line for each that is of no use."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import trustme

pytestmark = pytest.mark.quick

NOW = datetime.now(UTC)


class Files:
    """What a configuration names, all of it good; ``flags`` name it."""

    def __init__(self, folder):
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = self.put("ca.pem", self.authority.cert_pem.bytes())
        self.issue()
        self.users = self.put("users", b"")
        self.tokens = self.put("tokens", b"robot 0123456789abcdef0123456789abcdef\n")

    def issue(self, ends=NOW + timedelta(days=365)):
        made = self.authority.issue_cert("127.0.0.1", not_before=min(NOW, ends) - timedelta(days=9), not_after=ends)
        self.cert = self.put("cert.pem", made.cert_chain_pems[0].bytes())
        self.key = self.put("key.pem", made.private_key_pem.bytes())

    def put(self, name, data, mode=0o600):
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)

    def configuration(self, more="", scheme="tls"):
        text = f"""
            storage = "memory://"
            flush = "none"
            listen = "{scheme}://127.0.0.1:7444"
            [tls]
            cert = "{self.cert}"
            key = "{self.key}"
            client_ca = "{self.ca}"
            [access]
            authenticators = ["tls", {{ name = "token", tokens = "{self.tokens}" }}]
            [[access.rules]]
            principal = "*"
            resource = "*"
            operations = "*"
            {more}
        """
        return self.put("broker.toml", text.encode(), 0o644)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_what_is_good_is_right_and_nothing_is_said(cli, files):
    checked = cli("config", "check", files.configuration())
    assert (checked.status, checked.out.count("\n")) == (0, 1)
    assert ": right; broker" in checked.out
    explained = cli("explain", files.configuration(), "--output", "json")
    assert explained.status == 0
    assert (json.loads(explained.out)["problems"], json.loads(explained.out)["warnings"]) == ([], [])


def spoil(files, what):
    """Spoil one file, and return what is to be said of it."""
    path = files.folder
    if what == "no certificate":
        (path / "cert.pem").unlink()
        return f"tls://127.0.0.1:7444: {files.cert}: No such file or directory"
    if what == "no key":
        (path / "key.pem").unlink()
        return f"tls://127.0.0.1:7444: {files.key}: No such file or directory"
    if what == "no authority":
        (path / "ca.pem").unlink()
        return f"tls://127.0.0.1:7444: {files.ca}: No such file or directory"
    if what == "a folder":
        (path / "cert.pem").unlink()
        (path / "cert.pem").mkdir()
        return f"tls://127.0.0.1:7444: {files.cert}: Is a directory"
    if what == "another key":
        files.put("key.pem", files.authority.issue_cert("127.0.0.1").private_key_pem.bytes())
        return f"tls://127.0.0.1:7444: the key {files.key} is not that of the certificate {files.cert}"
    if what == "no PEM":
        files.put("cert.pem", b"rubbish")
        return f"tls://127.0.0.1:7444: {files.cert} and {files.key}: no PEM files of a certificate and its key"
    if what == "an authority that is no PEM":
        files.put("ca.pem", b"rubbish")
        return f"tls://127.0.0.1:7444: {files.ca}: no PEM file of certificates"
    if what == "an expired certificate":
        files.issue(NOW - timedelta(days=1))
        return f"tls://127.0.0.1:7444: the certificate {files.cert} expired on "
    if what == "no tokens":
        (path / "tokens").unlink()
        return f"authenticator token: {files.tokens}: cannot be read: No such file or directory"
    if what == "tokens for everybody":
        files.put("tokens", b"robot 0123456789abcdef0123456789abcdef\n", 0o644)
        return f"authenticator token: {files.tokens}: its mode is 0644, so that others can get at what is secret in it"
    assert what == "tokens that are none"
    files.put("tokens", b"robot short\n")
    return f"authenticator token: {files.tokens}: line 1: write NAME and a token"


SPOILT = (
    "no certificate", "no key", "no authority", "a folder", "another key", "no PEM", "an authority that is no PEM",
    "an expired certificate", "no tokens", "tokens for everybody", "tokens that are none",
)  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_a_file_that_is_of_no_use_is_one_line_and_status_2(cli, files, what):
    told = spoil(files, what)
    path = files.configuration()
    checked = cli("config", "check", path)
    assert (checked.status, checked.out) == (2, "")
    assert checked.err.startswith(f"mqcore: {told}")
    assert checked.err.count("\n") == 1
    explained = cli("explain", path)
    assert explained.status == 2
    (line,) = [line for line in explained.out.splitlines() if line.startswith("wrong: ")]
    assert line.startswith(f"wrong: {told}")
    assert json.loads(cli("explain", path, "--output", "json").out)["problems"] == [line.removeprefix("wrong: ")]


def test_all_that_is_wrong_is_told_at_once(cli, files):
    told = [spoil(files, what) for what in ("no key", "no tokens")]
    checked = cli("config", "check", files.configuration())
    assert checked.status == 2
    assert [line.removeprefix("mqcore: ").startswith(each) for line, each in
            zip(checked.err.splitlines(), told, strict=True)] == [True, True]  # fmt: skip


def test_a_file_of_users_and_a_password_are_looked_at(cli, files):
    pytest.importorskip("scramp")
    more = f"""
        [access.login]
        user = "node"
        password_file = "{files.folder}/password"
    """
    path = files.configuration(more)
    text = files.folder.joinpath("broker.toml").read_text()
    token = f'{{ name = "token", tokens = "{files.tokens}" }}'
    files.put("broker.toml", text.replace(token, '{ name = "scram-sha-256", users = "/no/users" }').encode())
    checked = cli("config", "check", path)
    assert checked.status == 2
    assert "authenticator scram-sha-256: /no/users: cannot be read" in checked.err
    assert f"access.login: {files.folder}/password: cannot be read" in checked.err


def test_what_a_start_goes_on_with_is_told_with_status_0(cli, files):
    """A key that others can read is how some systems hand keys out (decision 0025); the rest is without effect."""
    files.put("key.pem", files.folder.joinpath("key.pem").read_bytes(), 0o644)
    files_soon = files.configuration()
    checked = cli("config", "check", files_soon)
    assert checked.status == 0
    assert f"mind: tls://127.0.0.1:7444: others than its owner may read or change the key {files.key}" in checked.out
    files.issue(NOW + timedelta(days=3))
    assert (
        f"mind: tls://127.0.0.1:7444: the certificate {files.cert} expires in 3 days"
        in cli("config", "check", files_soon).out
    )
    plain = files.configuration(scheme="tcp")
    checked = json.loads(cli("config", "check", plain, "--output", "json").out)
    assert [notice.partition(":")[0] for notice in checked["notices"]] == [
        "tls.cert (--tls-cert) and tls.client_ca (--client-ca)",
        "the authenticator tls can know nobody who comes by tcp",
    ]
    explained = cli("explain", plain)
    assert explained.status == 0
    assert " ".join(explained.out.split()).count("mind: tls.cert (--tls-cert) and tls.client_ca (--client-ca)") == 1


def test_what_a_node_shows_to_the_others_is_looked_at(cli, files):
    text = f"""
        name = "a"
        storage = "memory://"
        flush = "none"
        [tls]
        cert = "{files.cert}"
        key = "{files.key}"
        ca = "{files.folder}/none.pem"
        [[cluster.sets]]
        name = "one"
        nodes = [{{ name = "a", urls = ["tls://127.0.0.1:7401"] }}, {{ name = "b", urls = ["tls://127.0.0.1:7402"] }}]
    """
    checked = cli("config", "check", files.put("cluster.toml", text.encode()))
    assert (checked.status, checked.err.count("\n")) == (2, 1)
    assert f"when this node connects to others: {files.folder}/none.pem: No such file or directory" in checked.err


def test_explain_says_of_each_node_who_may_follow_as_it(cli, files):
    text = f"""
        name = "a"
        storage = "mmap://{files.folder}/s"
        [access]
        authenticators = [{{ name = "token", tokens = "{files.tokens}" }}]
        nodes = ["token:*"]
        [[cluster.sets]]
        name = "one"
        [[cluster.sets.nodes]]
        name = "a"
        urls = ["tcp://127.0.0.1:7401"]
        principal = "token:a"
        [[cluster.sets.nodes]]
        name = "b"
        urls = ["tcp://127.0.0.1:7402"]
    """
    path = files.put("cluster.toml", text.encode())
    out = cli("explain", path).out
    assert "\nNodes\n  a: only token:a may follow as this node\n" in out
    assert "  b: open, as it has no principal: whoever may replicate may follow as this node\n" in out
    assert json.loads(cli("explain", path, "--output", "json").out)["nodes"] == [
        {"name": "a", "principal": "token:a"},
        {"name": "b", "principal": None},
    ]
