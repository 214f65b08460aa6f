"""Stores of other packages, schemes with a "+", variables of the environment, missing extras."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from salmon_state import ConfigurationError, MemoryStorage, StateStorage, open_storage, registry

SECRET = "s3cr3t"

MODULE = """
from salmon_state import StateStorage

class Store(StateStorage):
    def __init__(self, url, *, protect=False, flavour="plain"):
        super().__init__(protect=protect)
        self.url, self.flavour = url, flavour

class FromURL(Store):
    @classmethod
    def from_url(cls, url, **options):
        return cls("from " + url, **options)

class Strict(Store):
    @classmethod
    def from_url(cls, url, *, shape="round"):
        return cls(shape)

def function(url, *, flavour="made", protect=False):
    return Store(url, flavour=flavour, protect=protect)

def anything(url, **options):
    return Store(url, **options)

class NoStore:
    def __init__(self, url):
        pass

def nothing(url):
    return None

number = 7
"""


class Packages:
    """Installs packages of one module each, whose stores have entry points."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._monkeypatch = monkeypatch

    def install(self, name: str, entry_points: dict[str, str], module: str = MODULE) -> None:
        place = self.directory / name
        information = place / f"{name.replace('-', '_')}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0")
        lines = [f"{scheme} = {value}" for scheme, value in entry_points.items()]
        text = "\n".join(["[salmon_state.storages]", *lines, ""])
        (information / "entry_points.txt").write_text(text)
        module_name = name.replace("-", "_")
        (place / f"{module_name}.py").write_text(module)
        self._monkeypatch.syspath_prepend(place)
        # `import` sets what `monkeypatch` then removes again.
        self._monkeypatch.setitem(sys.modules, module_name, None)
        del sys.modules[module_name]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    monkeypatch.setattr(registry, "_compared", set())
    return Packages(tmp_path, monkeypatch)


def opened(url: str, **options: Any) -> Any:
    with open_storage(url, **options) as store:
        return store


def refused(url: Any, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url, **options)
    assert SECRET not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- packages


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("Store", "mine://host/x"),
        ("FromURL", "from mine://host/x"),
        ("function", "mine://host/x"),
        ("anything", "mine://host/x"),
    ],
)
def test_a_store_of_another_package(packages: Packages, target: str, url: str) -> None:
    packages.install("salmon-mine", {"mine": f"salmon_mine:{target}"})
    store = opened("MINE://host/x", flavour="sour")
    assert isinstance(store, StateStorage)
    assert (store.url, store.flavour) == (url, "sour")
    assert "salmon_mine" in sys.modules


def test_it_is_imported_when_it_is_used(packages: Packages) -> None:
    packages.install("salmon-mine", {"mine": "salmon_mine:Store"})
    opened("memory://")
    assert "mine://" in refused("your://")
    assert "salmon_mine" not in sys.modules


def test_a_scheme_in_capitals(packages: Packages) -> None:
    packages.install("salmon-mine", {"Mine": "salmon_mine:Store"})
    assert opened("mine://x").url == "mine://x"
    assert "mine://" in refused("your://")


def test_the_whole_scheme_before_its_first_part(packages: Packages) -> None:
    packages.install(
        "salmon-mine",
        {"mine": "salmon_mine:Store", "mine+new": "salmon_mine:FromURL", "sqlite+odd": "os:sep"},
    )
    assert opened("mine+new://x").url == "from mine+new://x"
    assert opened("mine+old://x").url == "mine+old://x"
    assert "neither" in refused("sqlite+odd:///x")
    assert "unknown scheme 'yours+mine'" in refused("yours+mine://x")


@pytest.mark.parametrize(
    ("target", "known"),
    [("Store", "protect, flavour"), ("FromURL", "protect, flavour"), ("Strict", "shape")],
)
def test_unknown_options(packages: Packages, target: str, known: str) -> None:
    packages.install("salmon-mine", {"mine": f"salmon_mine:{target}"})
    text = refused(f"mine://anna:{SECRET}@x", colour="red")
    assert text == f"mine:// has no option 'colour': known: {known}"


def test_options_of_a_function(packages: Packages) -> None:
    packages.install(
        "salmon-mine",
        {
            "mine": "salmon_mine:function",
            "any": "salmon_mine:anything",
            "none": "salmon_mine:nothing",
        },
    )
    assert "known: flavour, protect" in refused("mine://", colour="red")
    assert "known: none" in refused("none://", colour="red")
    with pytest.raises(TypeError, match="colour"):
        open_storage("any://", colour="red")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("salmon_missing:Store", "ModuleNotFoundError"),
        ("salmon_mine:Missing", "AttributeError"),
        ("salmon_mine:number", "neither"),
        ("salmon_mine:NoStore", "neither"),
        ("salmon_mine:nothing", "gave a NoneType"),
    ],
)
def test_a_broken_entry_point_names_its_package(
    packages: Packages, value: str, reason: str
) -> None:
    packages.install("salmon-mine", {"mine": value})
    text = refused(f"mine://anna:{SECRET}@x")
    assert "salmon-mine" in text
    assert reason in text


def test_a_module_that_cannot_be_imported(packages: Packages) -> None:
    packages.install("salmon-mine", {"mine": "salmon_mine:Store"}, "raise RuntimeError('no way')")
    text = refused(f"mine://anna:{SECRET}@x")
    assert "salmon-mine" in text
    assert "RuntimeError: no way" in text


def test_two_packages_with_one_scheme(packages: Packages) -> None:
    packages.install("salmon-mine", {"mine": "salmon_mine:Store"})
    packages.install("salmon-other", {"mine": "salmon_other:Store", "other": "salmon_other:Store"})
    assert "salmon-mine, salmon-other" in refused("mine://")
    assert opened("other://").url == "other://"


def test_built_in_stores_win(packages: Packages, caplog: pytest.LogCaptureFixture) -> None:
    packages.install("salmon-mine", {"memory": "salmon_mine:Store"})
    with caplog.at_level(logging.WARNING, "salmon_state"):
        for _ in range(2):
            assert type(opened("memory://")) is MemoryStorage
    (record,) = caplog.records
    assert "salmon-mine" in record.getMessage()
    assert "salmon_mine" not in sys.modules


# ---------------------------------------------------------------- Redis and its extra


@pytest.mark.parametrize(
    "scheme",
    [
        *("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
        *("redis+cluster", "rediss+cluster"),
    ],
)
def test_a_missing_extra_is_named(scheme: str) -> None:
    program = f"""
import sys
sys.modules["redis"] = None
import salmon_state
try:
    salmon_state.open_storage("{scheme}://anna:{SECRET}@localhost/0")
except salmon_state.ConfigurationError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    needs = "needs the package 'redis': pip install 'redis[hiredis]'"
    assert ended.stdout == f"{scheme}:// {needs}\n"


# ---------------------------------------------------------------- the environment

HARD = "p@s/s:w?o#r%41 d&=+$${X}é"


@pytest.fixture
def urls(packages: Packages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that only remembers its URL, for ``x://`` and for ``postgresql+x://``."""
    packages.install("salmon-mine", {"x": "salmon_mine:Store", "postgresql+x": "salmon_mine:Store"})
    for name, value in {
        "PASSWORD": HARD,
        "DB_USER": "anna@example",
        "HOST": "db.example.com:5432",
        "DIRECTORY": "/var/lib/salmon state",
        "EMPTY": "",
        "WHOLE": f"x://anna:{SECRET}@host/${{HOST}}",
        "_x1": "under",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("urls")
def test_values_arrive_as_they_are() -> None:
    url = make_url(
        opened("postgresql+x://${DB_USER}:${PASSWORD}@${HOST}/states?sslkey=${PASSWORD}&a=b").url
    )
    assert (url.username, url.password) == ("anna@example", HARD)
    assert (url.host, url.port, url.database) == ("db.example.com", 5432, "states")
    assert dict(url.query) == {"sslkey": HARD, "a": "b"}


@pytest.mark.usefixtures("urls")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("${WHOLE}", f"x://anna:{SECRET}@host/${{HOST}}"),  # not looked at again
        ("${WHOLE}?a=${DB_USER}", f"x://anna:{SECRET}@host/${{HOST}}?a=anna%40example"),
        ("x:///${DIRECTORY}/states", "x:////var/lib/salmon state/states"),
        ("x:///a@b/${DIRECTORY}@c", "x:///a@b//var/lib/salmon state@c"),
        ("x://:${EMPTY}@host", "x://:@host"),
        ("x://a${_x1}${DB_USER}b@host", "x://aunderanna%40exampleb@host"),
        ("x://u@v:w@${HOST},${HOST}/", "x://u@v:w@db.example.com:5432,db.example.com:5432/"),
        ("x://$$:$PASSWORD@$/$(a)?${DB_USER}", "x://$$:$PASSWORD@$/$(a)?anna%40example"),
        ("x://%24{PASSWORD}@host", "x://%24{PASSWORD}@host"),
    ],
)
def test_where_values_go(given: str, expected: str) -> None:
    assert opened(given).url == expected


@pytest.mark.usefixtures("urls")
def test_bytes_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"PASSWORD", b"\xff/")
    assert opened("x://:${PASSWORD}@host").url == "x://:%FF%2F@host"


@pytest.mark.parametrize("url", [f"x://anna:{SECRET}${{NOT_SET}}@host", "${NOT_SET}"])
def test_a_missing_variable_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    assert "'NOT_SET'" in refused(url)


@pytest.mark.parametrize("rest", ["{", "{}", "{ A}", "{A", "{A:-b}", "{A-B}", "{1}", "{é}"])
def test_what_is_no_variable(rest: str) -> None:
    text = refused(f"sqlite://anna:{SECRET}${rest}{SECRET}@host/x")
    assert "${NAME}" in text
    assert "%24{" in text


@pytest.mark.usefixtures("urls")
def test_a_variable_without_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHOLE", SECRET)
    assert "without a scheme" in refused("${WHOLE}")


def test_unknown_schemes_list_everything(packages: Packages) -> None:
    packages.install("salmon-mine", {"mine": "salmon_mine:Store"})
    text = refused(f"yours://anna:{SECRET}@host")
    for known in ("memory://", "mine://", "redis+cluster://", "rediss://", "unix://"):
        assert known in text
