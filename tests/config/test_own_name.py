"""``{name}`` in a configuration: the name of the broker, in whatever is a node's own."""

from __future__ import annotations

from pathlib import Path

from mqcore.abc import TlsOptions
from mqcore.config import load_config


def test_the_name_of_the_broker_may_stand_in_whatever_is_a_node_s_own(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        """
storage = "mmap:///var/lib/{name}"

[tls]
cert = "/certs/{name}.pem"
key = "/certs/{name}.key"
ca = "/certs/ca-{name}.pem"
client_ca = "/certs/clients-{name}.pem"

[[listen]]
url = "unix:///run/{name}.sock"

[[listen]]
url = "tls://127.0.0.1:0"
cert = "/other/{name}.pem"

[[access.authenticators]]
name = "scram-sha-256"
users = "/users/{name}"

[access.login]
user = "{name}"
password_file = "/secrets/{name}"

[[access.rules]]
principal = "user:*"
resource = "*"
operations = "*"
"""
    )
    config = load_config(file, environment={}, overrides={"name": "a1"})
    assert config.storage.url == "mmap:///var/lib/a1"
    assert config.tls == TlsOptions(
        cert="/certs/a1.pem", key="/certs/a1.key", ca="/certs/ca-a1.pem", client_ca="/certs/clients-a1.pem"
    )
    assert [each.url for each in config.listen] == ["unix:///run/a1.sock", "tls://127.0.0.1:0"]
    assert config.listen[1].options == {"cert": "/other/a1.pem"}
    assert config.access is not None
    assert config.access.authenticators[0].options == {"users": "/users/a1"}
    assert (config.access.login.user, config.access.login.password_file) == ("a1", "/secrets/a1")
    typed = load_config(file, environment={}, overrides={"name": "b", "tls": {"cert": "x/{name}", "key": "y/{name}"}})
    assert (typed.tls.cert, typed.tls.key) == ("x/b", "y/b")
