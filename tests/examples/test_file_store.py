"""The first example of docs/writing-a-store.md: the kit over it, its files, and installing it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

import salmon_state
from examples.file_store import salmon_state_files
from examples.file_store import test_file_store as its_test
from examples.file_store.salmon_state_files import FileStorage
from salmon_state import ConfigurationError, StateStorage, StorageError, StorageUnavailable
from salmon_state.testing import (
    ContractSuite,
    ConversationSuite,
    DurableSuite,
    ModelSuite,
    OpenStore,
    SharedConversationSuite,
    SharedStoreSuites,
    StoreSuite,
)

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "file_store"
SERVERS = CHECKOUT / "examples" / "server_stores"
MODULE = "app.handlers"
SENDER = "anna@example.com"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "states"
    place.mkdir()
    return place


class FileStores(StoreSuite):
    store_name = "FileStorage"

    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(FileStorage, place)


class TestFileStorage(FileStores, SharedStoreSuites):
    runs = reopening_runs = conversation_runs = 5
    mails = 50
    memory = 50_000_000
    limits = its_test.LIMITS
    records = thousands = 300  # files that are synced, each


@pytest.mark.stress
class TestFileStorageForLong(
    FileStores, ContractSuite, ModelSuite, ConversationSuite, SharedConversationSuite, DurableSuite
):
    runs = conversation_runs = 300
    reopening_runs = 100
    kills = 50


class TestFaults(FileStores, its_test.TestFaults):
    @pytest.fixture
    def open_store(self, place: Path) -> OpenStore:
        return partial(FileStorage, place, timeout=0.5)

    @pytest.fixture
    def open_at(self) -> Callable[[str], StateStorage]:
        def open_at(path: str) -> StateStorage:
            os.makedirs(path, exist_ok=True)
            return FileStorage(path)

        return open_at


# ---------------------------------------------------------------- its files


def senders_files(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if len(path.name) == 64]


def test_a_file_for_each_sender(place: Path) -> None:
    with FileStorage(place) as store:
        store._clock = lambda: 1_700_000_000_000_000
        store.set(MODULE, SENDER, "CONFIRMING")
        store.set("app.bounces", SENDER, "É")
        store.set(MODULE, "../ben@example.com", "POSTING")
        assert len(senders_files(place)) == 2
        name = salmon_state_files._name(SENDER)
        *lines, digest = (place / name).read_text(encoding="ascii").splitlines()
        assert [json.loads(line) for line in lines] == [
            [1, "['app.handlers', 'anna@example.com']", "CONFIRMING", 1_700_000_000_000_000],
            [1, "['app.bounces', 'anna@example.com']", "\\xc9", 1_700_000_000_000_000],
        ]
        assert len(digest) == 64
        store.set_all(SENDER, "START")
        assert not (place / name).exists()
        assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}


WRITTEN = b"[1, \"['app.handlers', 'anna@example.com']\", \"POSTING\", 1]\n"


def check_damage(store: FileStorage, place: Path, content: bytes) -> None:
    path = place / salmon_state_files._name(SENDER)
    path.write_bytes(content)
    for call in (
        lambda: store.get(MODULE, SENDER),
        lambda: store.set(MODULE, SENDER, "POSTING"),
        lambda: list(store),
        lambda: store.conversation(SENDER).__enter__(),
    ):
        with pytest.raises(StorageError, match="damaged") as caught:
            call()
        assert not isinstance(caught.value, StorageUnavailable)
        assert path.name in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xc3\xa9",
        WRITTEN,
        WRITTEN.replace(b"anna@", b"ben@"),
        WRITTEN.replace(b"POSTING", b""),
        WRITTEN.replace(b", 1]", b"]"),
        WRITTEN.replace(b", 1]", b", true]"),
        b"[" * 100_000,
    ],
    ids=lambda content: ascii(content[-40:]),
)
def test_a_damaged_file_is_no_missing_one(place: Path, content: bytes) -> None:
    with FileStorage(place) as store:
        check_damage(store, place, content)
        check_damage(store, place, content + b"\n" + b"0" * 64)


def test_no_bit_of_a_file_can_change(place: Path) -> None:
    with FileStorage(place) as store:
        store.set(MODULE, SENDER, "POSTING")
        store.set("app.bounces", SENDER, "COUNTING")
        path = place / salmon_state_files._name(SENDER)
        content = path.read_bytes()
        for end in range(len(content)):
            path.write_bytes(content[:end])
            with pytest.raises(StorageError, match="damaged"):
                store.get(MODULE, SENDER)
            flipped = content[end] ^ 1 << end % 8
            path.write_bytes(content[:end] + bytes([flipped]) + content[end + 1 :])
            with pytest.raises(StorageError, match="damaged"):
                store.get(MODULE, SENDER)
        path.write_bytes(content)
        assert store.get(MODULE, SENDER) == "POSTING"


def test_somebody_elses_file_is_damage(place: Path) -> None:
    with FileStorage(place) as store:
        store.set(MODULE, "ben@example.com", "POSTING")
        [path] = senders_files(place)
        check_damage(store, place, path.read_bytes())


def test_a_directory_that_went_away_is_not_empty(place: Path) -> None:
    with FileStorage(place) as store:
        store.set(MODULE, SENDER, "POSTING")
        place.rename(place.with_name("moved"))
        for remade in (False, True):  # the second time like the place of a mount
            if remade:
                place.mkdir()
            for call in (
                lambda: store.get(MODULE, SENDER),
                lambda: store.get(MODULE, "unknown@x"),
                lambda: list(store),
                store.ping,
            ):
                with pytest.raises(StorageUnavailable):
                    call()


@pytest.mark.parametrize("bad", ["missing", "file"])
def test_it_needs_a_directory(place: Path, bad: str) -> None:
    (place / "file").touch()
    with pytest.raises(ConfigurationError, match=bad):
        FileStorage(place / bad)


@pytest.mark.parametrize("timeout", [0, -1, "5", None, float("nan"), True])
def test_bad_timeouts(place: Path, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        FileStorage(place, timeout=timeout)


def test_a_writer_waits_no_longer_than_its_timeout(place: Path) -> None:
    with FileStorage(place) as busy, FileStorage(place, timeout=0.05) as waiting:
        with busy._writing(), pytest.raises(StorageUnavailable) as caught:
            waiting.set(MODULE, SENDER, "POSTING")
        assert "0.05 s" in caught.value.detail
        waiting.set(MODULE, SENDER, "POSTING")


class PowerLoss(BaseException):
    pass


class Failing:
    """Lets a number of calls that write through, and then nothing any more."""

    def __init__(self, patch: pytest.MonkeyPatch, calls: int, error: BaseException) -> None:
        self.left = calls
        self.error = error
        for place, name in ((os, "rename"), (os, "fsync"), (Path, "unlink")):
            patch.setattr(place, name, self._instead_of(getattr(place, name)))

    def _instead_of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.left <= 0:
                raise self.error
            self.left -= 1
            return function(*arguments, **options)

        return call


BEFORE = {"a@x": "A", "b@x": "A", "c@x": "A"}
AFTER = {"a@x": "B", "b@x": "B", "new@x": "B"}


def states(store: FileStorage) -> dict[str | None, str]:
    return {record.sender: record.state for record in store}


def change_all(store: FileStorage) -> None:
    with store.conversation(None):
        for sender in BEFORE:
            store.set(MODULE, sender, AFTER.get(sender, "START"))
        store.set(MODULE, "new@x", "B")


def changes_cut_short(place: Path, error: BaseException) -> Iterator[tuple[bool, Path]]:
    """Repeats one change of several senders, which fails one call later each time."""
    calls, done = 0, False
    while not done:
        shutil.rmtree(place)
        place.mkdir()
        with FileStorage(place) as store:
            for sender, state in BEFORE.items():
                store.set(MODULE, sender, state)
            with pytest.MonkeyPatch.context() as patch:
                failing = Failing(patch, calls, error)
                try:
                    change_all(store)
                    returned = True
                except (PowerLoss, StorageUnavailable):
                    returned = False
                done = failing.left > 0
        yield returned, place
        calls += 1
    assert calls > 12


def test_power_loss_leaves_all_or_nothing(place: Path) -> None:
    found = []
    for returned, here in changes_cut_short(place, PowerLoss()):
        with FileStorage(here) as store:
            first = store.get(MODULE, "a@x")  # whatever is read first, the rest agrees with it
            assert states(store) == (BEFORE if first == "A" else AFTER)
            assert first == "B" or not returned
            found.append(first)
            store.set(MODULE, "a@x", "C")
            assert states(store)["a@x"] == "C"
            assert not (here / "journal").exists()
    assert found == sorted(found)
    assert set(found) == {"A", "B"}


def test_a_full_disk_leaves_all_or_nothing(place: Path) -> None:
    for returned, here in changes_cut_short(place, OSError("no space left on device")):
        with FileStorage(here) as store:
            found = states(store)
            assert found in (BEFORE, AFTER)
            assert found == AFTER or not returned


# ---------------------------------------------------------------- installing it


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed the checkout and the example, without an index."""
    here = tmp_path_factory.mktemp("installed")
    sources = here / "sources"
    sources.mkdir()
    shutil.copytree(
        CHECKOUT / "salmon_state",
        sources / "salmon_state",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(CHECKOUT / name, sources)
    (sources / "README.md").touch()
    shutil.copytree(EXAMPLE, here / "example", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-index", "--no-deps", "--no-build-isolation"),
            *("--target", str(here / "target"), str(sources), str(here / "example")),
        ],
        check=True,
        timeout=300,
    )
    return here / "target"


def run_installed(installed: Path, place: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(installed), "STATES": str(place)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_it_asks_for_a_version_that_has_what_it_imports() -> None:
    text = (EXAMPLE / "pyproject.toml").read_text()
    (asked,) = re.findall(r'^dependencies = \["salmon-state(.+)"\]$', text, flags=re.MULTILINE)
    assert SpecifierSet(asked).contains(salmon_state.__version__)
    assert not SpecifierSet(asked).contains("0.1.0")  # which had no salmon_state.backend


def test_it_is_found_by_its_url(installed: Path, place: Path) -> None:
    program = f"""
import salmon_state
from salmon_state import ConfigurationError, configure, named_storage, open_storage

assert salmon_state.__file__.startswith({str(installed)!r}), salmon_state.__file__
with open_storage("files:///${{STATES}}", protect=True) as store:
    store.set("app", "anna@example.com", "POSTING")
configure({{"main": {{"url": "files:///.", "options": {{"timeout": 1}}}}}})
print(type(store).__module__, named_storage("main").get("app", "anna@example.com"))
for url, options in (("fils://", {{}}), ("files:///.", {{"pool_size": 3}})):
    try:
        open_storage(url, **options)
    except ConfigurationError as error:
        print(error)
"""
    lines = run_installed(installed, place, "-c", program).splitlines()
    assert lines[0] == "salmon_state_files POSTING"
    assert "files://, mariadb://" in lines[1]
    assert lines[2] == "files:// has no option 'pool_size': known: protect, timeout"


def test_its_own_tests_run_where_it_is_installed(installed: Path, place: Path) -> None:
    shutil.copy(EXAMPLE / "test_file_store.py", place)
    chosen = ("-k", "test_ping or test_a_whole_conversation or test_no_set_is_lost or TestFaults")
    quick = ("-q", "-p", "no:cacheprovider", "--no-header", "test_file_store.py")
    output = run_installed(installed, place, "-m", "pytest", *quick, *chosen)
    assert re.search(r"^2\d passed", output, flags=re.MULTILINE), output


# ---------------------------------------------------------------- the guide


def test_the_guide_shows_the_code_that_there_is() -> None:
    guide = (CHECKOUT / "docs" / "writing-a-store.md").read_text()
    examples = [*sorted(EXAMPLE.iterdir()), *sorted(SERVERS.iterdir())]
    there = "".join(path.read_text() for path in examples if path.suffix in (".py", ".toml"))
    there = "".join(there.split())  # ruff formats the guide as well, without the indentation
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    for block in blocks:
        assert "".join(block.split()) in there, block
