"""Certificates: where they are named, and what goes over what."""

from pathlib import Path

import pytest

from mqcore.abc import TlsOptions, TransportContext
from mqcore.cli.shell import Settings
from mqcore.config import load_config
from mqcore.errors import ConfigurationError


def test_the_own_pair_goes_together_over_the_other() -> None:
    shared = TlsOptions(cert="shared.pem", key="shared.key", ca="ca.pem")
    assert TlsOptions(cert="own.pem").over(shared) == TlsOptions(cert="own.pem", key=None, ca="ca.pem")
    assert TlsOptions(client_ca="clients.pem").over(shared) == TlsOptions(
        cert="shared.pem", key="shared.key", ca="ca.pem", client_ca="clients.pem"
    )
    assert TransportContext().tls == TlsOptions()


def test_file_environment_and_flags_name_certificates(tmp_path: Path) -> None:
    file = f"{tmp_path}/broker.toml"
    with open(file, "w") as text:
        text.write('storage = "memory://"\n[tls]\ncert = "a.pem"\nkey = "a.key"\n')
    config = load_config(file, environment={"MQCORE_TLS_CA": "ca.pem"}, overrides={"tls": {"key": "b.key"}})
    assert config.tls == TlsOptions(cert="a.pem", key="b.key", ca="ca.pem")
    with pytest.raises(ConfigurationError, match="certificate"):
        load_config(file, overrides={"tls": {"certificate": "x"}})


def test_the_command_line_takes_a_pair_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQCORE_TLS_CERT", "environment.pem")
    monkeypatch.setenv("MQCORE_TLS_KEY", "environment.key")
    monkeypatch.setenv("MQCORE_TLS_CA", "ca.pem")
    assert Settings().tls == {"ca": "ca.pem", "cert": "environment.pem", "key": "environment.key"}
    assert Settings(cert="own.pem").tls == {"ca": "ca.pem", "cert": "own.pem"}
    with pytest.raises(ConfigurationError, match=r"--key own\.key without a certificate.*--cert FILE"):
        _ = Settings(key="own.key").tls
