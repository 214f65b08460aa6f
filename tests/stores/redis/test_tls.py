"""TLS with a real server: whom the store trusts, and what it says of the others."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from salmon_state import ConfigurationError, StorageError, StorageUnavailable, open_storage
from salmon_state.stores.redis import RedisStorage
from salmon_state.testing.threads import run_together
from tests.redis_services import SECRET, RedisServer
from tests.services import program, provide

MODULE, ANNA = "app.handlers", "anna@example.com"


class Authority:
    """Issues certificates that are good for a day."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        # The usage, too: from 3.13 on Python asks for it.
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        self.certificate = self._make(name, extensions)

    def issue(self, name: str, address: str) -> Path:
        """Returns a certificate for an IP address; its key is beside it."""
        issuer = ("-CA", str(self.certificate), "-CAkey", str(self.certificate.with_suffix(".key")))
        return self._make(name, [f"subjectAltName=IP:{address}"], *issuer)

    def _make(self, name: str, extensions: Sequence[str], *issuer: str) -> Path:
        certificate = self.directory / f"{name}.pem"
        subprocess.run(
            [
                *(program("openssl"), "req", "-x509", "-nodes", "-days", "1", *issuer),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)),
                *("-config", "/dev/null", "-subj", f"/CN={name}"),
                *[text for extension in extensions for text in ("-addext", extension)],
            ],
            check=True,
            capture_output=True,
        )
        certificate.with_suffix(".key").chmod(0o644)  # the server is another user
        return certificate


class TLSServer(RedisServer):
    """A server that speaks nothing but TLS, as 127.0.0.1."""

    def prepare(self) -> None:
        super().prepare()
        self.authority = Authority(self.directory, "authority")
        self.certificate = self.authority.issue("server", "127.0.0.1")

    def command(self) -> list[str]:
        files = {
            "tls-cert-file": self.certificate,
            "tls-key-file": self.certificate.with_suffix(".key"),
            "tls-ca-cert-file": self.authority.certificate,
        }
        options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
        ports = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        return [*super().command(), *ports, *options]

    def client(self, **options: Any) -> redis.Redis:
        return super().client(ssl=True, ssl_ca_certs=str(self.authority.certificate), **options)

    def tls_url(self, authority: Path | None, host: str = "127.0.0.1") -> str:
        trusted = f"?ssl_ca_certs={authority}" if authority else ""
        return self.url(host=host).replace("redis://", "rediss://") + trusted


@pytest.fixture(scope="module")
def tls() -> Iterator[TLSServer]:
    yield from provide(TLSServer)


def refusal(kind: type[StorageError], url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Returns what is said of a URL that cannot be opened, without the password anywhere."""
    with pytest.raises(kind) as caught:
        open_storage(url, timeout=2)
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in told
    assert url not in told
    return caught.value.detail


def test_a_server_with_the_right_certificate(tls: TLSServer, prefix: str) -> None:
    opened = partial(RedisStorage, tls.tls_url(tls.authority.certificate), prefix=prefix)
    with opened() as store, store.conversation(ANNA):
        store.set(MODULE, ANNA, "POSTING")
    with opened() as store:
        assert [tuple(record)[:3] for record in store] == [(MODULE, ANNA, "POSTING")]
        assert repr(store) == f"<RedisStorage rediss://:***@127.0.0.1:{tls.port}/0 {prefix!a}>"


def test_a_server_that_nobody_answers_for(
    tls: TLSServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an authority that did not issue its certificate nor those of the system."""
    for authority in (Authority(tmp_path, "stranger").certificate, None):
        told = refusal(ConfigurationError, tls.tls_url(authority), caplog)
        assert f"rediss://:***@127.0.0.1:{tls.port}/0" in told
        assert "certificate verify failed" in told


def test_a_certificate_for_somebody_else(tls: TLSServer, caplog: pytest.LogCaptureFixture) -> None:
    url = tls.tls_url(tls.authority.certificate, host="localhost")
    told = refusal(ConfigurationError, url, caplog)
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in told


def test_a_name_that_is_not_to_be_checked(tls: TLSServer, prefix: str) -> None:
    url = tls.tls_url(tls.authority.certificate, host="localhost") + "&ssl_check_hostname=no"
    with RedisStorage(url, prefix=prefix) as store:
        store.ping()
    careless = tls.tls_url(None, host="localhost") + "?ssl_cert_reqs=none"
    with RedisStorage(careless, prefix=prefix) as store:
        store.ping()


def test_an_authority_that_is_not_there(tls: TLSServer, caplog: pytest.LogCaptureFixture) -> None:
    told = refusal(ConfigurationError, tls.tls_url(Path("/missing/ca.pem")), caplog)
    assert told == "ssl_ca_certs: there is no '/missing/ca.pem'"


def test_a_relative_path_is_resolved_once(
    tls: TLSServer, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tls.directory)
    relative = tls.authority.certificate.relative_to(tls.directory)
    with RedisStorage(tls.tls_url(relative), prefix=prefix) as store:
        monkeypatch.chdir(tmp_path)
        run_together([store.ping] * 3)  # which takes more than one connection


def test_one_side_without_tls(
    tls: TLSServer, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    plain = server.url().replace("redis://", "rediss://")
    for url in (plain, tls.url()):
        refusal(StorageUnavailable, url, caplog)
