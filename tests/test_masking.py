"""No part of a password is in anything that is raised, logged or shown, however it was written."""

from __future__ import annotations

import logging
import traceback
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from salmon_state import (
    ConfigurationError,
    MemoryStorage,
    StateStorage,
    StorageError,
    StorageUnavailable,
    open_storage,
    registry,
)
from salmon_state.masking import Mask
from tests.services import free_port

# Letters and digits that are in no message; what separates the parts of a URL; what is escaped.
LETTERS = "qzxjé"
PASSWORDS = st.text("/@:?#%&=+[]${\\'\" \n" + LETTERS * 4, min_size=3, max_size=12).filter(
    lambda password: "${" not in password
)

FORMS = {
    "postgresql": "postgresql://salmon:{}@127.0.0.1:{port}/states",
    "postgresql, socket": "postgresql://salmon:{}@/states?host=/nowhere",
    "mariadb": "mysql+pymysql://salmon:{}@127.0.0.1:{port}/states",
    "query": "postgresql://127.0.0.1:{port}/states?user=salmon&password={}",
    "query of MariaDB": "mariadb://127.0.0.1:{port}/states?password={}",
    "sqlite": "sqlite://salmon:{}@127.0.0.1/states",
    "shelf": "shelve://salmon:{}@127.0.0.1/states",
    "memory": "memory://salmon:{}@127.0.0.1/states",
    "redis": "redis://salmon:{}@127.0.0.1:{port}/0",
    "redis without a user": "redis://:{}@127.0.0.1:{port}/0",
    "redis, query": "redis://127.0.0.1:{port}/0?password={}",
    "rediss": "rediss://:{}@127.0.0.1:{port}/0",
    "unix": "unix://salmon:{}@/nowhere/socket",
    "sentinel": "redis+sentinel://:{}@127.0.0.1:{port}/states?sentinel_password={}",
    "cluster": "redis+cluster://:{}@127.0.0.1:{port}",
    "a function that fails": "loud://salmon:{}@127.0.0.1:{port}/0",
    "a store that fails": "late://salmon:{}@127.0.0.1:{port}/0",
    "an unknown one": "nonsense://salmon:{}@127.0.0.1:{port}/0",
}


def loud(url: str) -> StateStorage:
    """A driver that shows what it was given."""
    raise RuntimeError(f"cannot use {url} = {url!r}")


class Late(MemoryStorage):
    """One that shows it when it is used, in its own words."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Late:
        return cls(url, **options)

    def _place(self) -> str:
        return self.url

    def _read(self, module: str, sender: str | None) -> str | None:
        try:
            raise RuntimeError(f"no such host in {self.url}")
        except RuntimeError as error:
            raise StorageUnavailable(f"{self.url}: {error!r}") from error

    def _close(self) -> None:
        raise OSError(f"cannot close {self.url}")


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [
        EntryPoint(name, f"{__name__}:{kind}", registry._GROUP)
        for name, kind in (("loud", "loud"), ("late", "Late"))
    ]
    monkeypatch.setattr(registry, "_offers", lambda: offers)


class Everything(logging.Handler):
    """Remembers all that is logged."""

    def __init__(self) -> None:
        super().__init__(0)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def shown(url: str) -> str:
    """Opens and uses a store that cannot work; returns whatever there is to be read of it."""
    everything = Everything()
    logging.getLogger().addHandler(everything)
    texts = everything.texts
    try:
        store = open_storage(url)
        texts.append(repr(store))
        for use in (lambda: store.get("app", "anna@example.com"), store.close):
            try:
                use()
            except StorageError as error:
                texts += _shown(error)
    except StorageError as error:
        texts += _shown(error)
    finally:
        logging.getLogger().removeHandler(everything)
    return "\n".join(texts).replace("unix://", "")  # a scheme that is known, and has an x


def _shown(error: StorageError) -> list[str]:
    texts = [str(error), repr(error), error.detail]
    return [*texts, *traceback.format_exception(error)]


def parts(password: str) -> set[str]:
    """Returns what must not be seen of it: what three characters of it do not say by themselves."""
    found = {password[at : at + 3] for at in range(len(password) - 2)}
    return {part for part in found if set(part) & set(LETTERS)}


@pytest.mark.parametrize("form", FORMS)
@given(password=PASSWORDS)
@example("q@zx/jz7")
@example("q/zx@jz7")
@example("zx?qjz")
@example("12?zxq=jz7")
@example("zx#qjz")
@example("zx&qjz=1")
@example("&zxqj=1")
@example("&zxqj")
@example("zx%qj%40")
@example("q:zx@jz7")
@example("qzx'jé\\")
@example("qzx\nj  qz")
@settings(max_examples=15, deadline=None)
def test_no_part_of_a_password(form: str, password: str) -> None:
    for written in (password, quote(password, safe="")):
        url = FORMS[form].replace("{port}", str(free_port())).replace("{}", written)
        text = shown(url)
        assert not [part for part in parts(password) if part in text], "a part got out"
        assert not [part for part in parts(quote(password, safe="")) if part in text]


@pytest.mark.parametrize("password", ["p@ss/word", "p/ss@word", "p?ss@word", "p#ss@word"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis", "redis+cluster", "late"])
def test_what_cannot_be_taken_apart_says_what_to_do(scheme: str, password: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encode"):
        open_storage(f"{scheme}://user:{password}@host/db")


@pytest.mark.parametrize(
    "url",
    [
        "late://anna@example:zxq@host/db",
        "late://host/a@b",
        "late://host:1/a",
        "late:///a:b@c/d@e",
        "late://:zxq@host?x=y:z",
        "late://anna@host:12/a",
    ],
)
def test_what_can_be_taken_apart_is_accepted(url: str) -> None:
    assert "host" in repr(open_storage(url)) or "a:b@c" in url


def test_a_short_password_garbles_no_word() -> None:
    text = shown("postgresql://salmon:p@127.0.0.1:1/states")
    assert "OperationalError: connection" in text
    assert "salmon:***@127.0.0.1" in text
    assert Mask(["p"])("pop p, 'p' p") == "pop ***, '***' ***"


def test_an_option_is_a_secret_as_well() -> None:
    def make(url: str, **options: Any) -> StateStorage:
        raise ValueError(f"{options}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_find", lambda scheme: (make, "a package"))
        with pytest.raises(ConfigurationError) as caught:
            open_storage("mine://", password="zxqjz")
    assert str(caught.value) == (
        "mine:// of a package cannot be made: ValueError: {'password': '***'}"
    )


def test_an_error_that_shows_nothing_keeps_its_cause() -> None:
    cause = OSError("the disk is on fire")
    error = Mask(["zxqjz"]).apply(StorageUnavailable("zxqjz: on fire"), cause)
    assert (error.detail, error.__cause__) == ("***: on fire", cause)
    told = Mask(["zxqjz"]).apply(StorageError("no"), OSError("zxqjz is wrong"))
    assert (str(told), told.__cause__) == ("no", None)
    assert "zxqjz" not in "".join(traceback.format_exception(told))
