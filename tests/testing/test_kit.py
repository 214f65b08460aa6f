"""The kit itself: its keys, its processes, and what it tells whoever uses it wrongly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import salmon_state.testing
from salmon_state import MemoryStorage
from salmon_state.forks import Forkable, ForkWatch
from salmon_state.storage import StateStorage
from salmon_state.testing import HOSTILE_KEYS, forking, mails, processes, tasks, versions
from salmon_state.testing.abilities import ABILITIES, ability_of
from salmon_state.testing.children import call_in_child, die_in_step
from salmon_state.testing.processes import StoreProcess, store_processes
from salmon_state.testing.threads import run_together
from tests.testing import wrong_suites


def test_hostile_keys_are_all_different() -> None:
    assert len(set(HOSTILE_KEYS)) == len(HOSTILE_KEYS) > 200


@given(st.sampled_from([None, "", "None", "A@x", "a@x ", "e\u0301@x", "\udcff@x", "\U0001faea@x"]))
def test_hostile_keys_have_what_was_seen(sender: str | None) -> None:
    assert sender in {its for _, its in HOSTILE_KEYS}


def test_public_names_exist() -> None:
    for name in salmon_state.testing.__all__:
        assert getattr(salmon_state.testing, name) is not None
        assert name in dir(salmon_state.testing)
    with pytest.raises(AttributeError, match="no attribute 'SillySuite'"):
        _ = salmon_state.testing.SillySuite


def test_another_python_that_dies_is_started_anew() -> None:
    dies: Any = partial(os._exit, 3)
    with pytest.raises(AssertionError, match="it was stuck, or died"):
        versions._other_python(sys.executable).call(dies, tasks.read)
    assert versions._other_python(sys.executable).call(MemoryStorage, tasks.read) == []


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_an_import_error_names_the_extra(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import salmon_state.testing.processes\n"  # what needs neither
        "from salmon_state.testing import ContractSuite"
    )
    ended = run_python(program)
    assert ended.returncode == 1
    error = ended.stderr.splitlines()[-1]
    assert error.startswith("ImportError: salmon_state.testing.ContractSuite needs pytest and")
    assert repr(missing) in error
    assert "pip install pytest hypothesis" in error


SILENT = """
import pytest
from salmon_state import MemoryStorage
from salmon_state.testing import EveryStoreSuites

class Silent(MemoryStorage):
    def _commit(self, writes): return []
    def _ping(self): raise LookupError("no server")

class TestSilent(EveryStoreSuites):
    @pytest.fixture
    def open_store(self): return Silent

    def test_get_never_writes(self, open_store): "Of its own; the kit has one of this name."

def test_of_nobodys():
    assert 1 == 2
"""


def run_kit(directory: Path, text: str, *options: str) -> str:
    (directory / "test_it.py").write_text(text)
    plugin = () if entry_point_is_installed() else ("-p", "salmon_state.testing.plugin")
    arguments = ["-p", "no:cacheprovider", *plugin, *options]
    return run_python("import pytest; pytest.main()", *arguments, directory=directory).stdout


def entry_point_is_installed() -> bool:
    return any(p.value.startswith("salmon_state.") for p in entry_points(group="pytest11"))


def test_a_failure_says_what_is_wrong_and_where_that_is_written(tmp_path: Path) -> None:
    chosen = ("-k", "test_get_returns_what_was_set or test_ping or nobodys")
    lines = run_kit(tmp_path, SILENT, *chosen).splitlines()
    errors = [line for line in lines if line.startswith("E  ")]
    start = "E       AssertionError: Silent breaks the contract of StateStorage."
    assert errors[:2] == [
        f"{start}get, set, compare_and_set: The state comes back, as a plain str.",
        "E       assert 'START' == 'CONFIRMING'",
    ]
    assert f"{start}ping, close, key: It returns, and changes nothing." in errors
    assert any("LookupError: no server" in line for line in errors)
    assert errors[-1] == "E       assert 1 == 2"


def test_a_limit_of_nothing_is_named(tmp_path: Path) -> None:
    text = """
import pytest
from salmon_state import MemoryStorage
from salmon_state.testing import ContractSuite

class TestMine(ContractSuite):
    limits = {"largst": "bytes", "longest": "characters"}

    @pytest.fixture
    def open_store(self): return MemoryStorage
"""
    said = run_kit(tmp_path, text, "-k", "test_ping")
    assert "AttributeError: TestMine.limits names 'largst', which is no attribute of it" in said
    assert "limit longest = 5,000,000: characters" in said


def test_a_write_that_fails_says_what_was_expected(tmp_path: Path) -> None:
    text = """
import contextlib, pytest
from salmon_state import MemoryStorage, StorageError
from salmon_state.testing import FaultSuite

class Full(MemoryStorage):
    full = False

    def _commit(self, writes):
        if self.full: raise StorageError("no space")
        return super()._commit(writes)

class TestFull(FaultSuite):
    @pytest.fixture
    def open_store(self): return Full

    @pytest.fixture
    def fail_writes(self, store):
        @contextlib.contextmanager
        def full():
            store.full = True
            yield
            store.full = False
        return full
"""
    output = run_kit(tmp_path, text, "-k", "test_a_write_that_fails and compare_and_set")
    wrong = "expected StorageUnavailable and no change: StorageError was raised, unchanged=True"
    assert wrong in output
    assert "is True" not in output


LIMITED = """
import pytest
from salmon_state import MemoryStorage, StorageError
from salmon_state.testing import EntrySuite, HostileKeySuite

class Limited(MemoryStorage):
    def _commit(self, writes):
        return super()._commit(map(self.check, writes))

    def check(self, write):
        if max(len(write.sender), len(str(write.name))) > 1_000_000 or len(write.value) > 2_000_000:
            raise StorageError("too much")
        return write

class Cutting(Limited):
    def check(self, write):
        return write._replace(sender=write.sender[:1_000_000], value=write.value[:2_000_000])

class TestLimited(HostileKeySuite, EntrySuite):
    longest, largest = 1_000_000, 2_000_000
    limits = {"longest": "characters", "largest": "bytes"}

    @pytest.fixture
    def open_store(self): return Limited

class TestCutting(TestLimited):
    @pytest.fixture
    def open_store(self): return Cutting
"""


def test_beyond_a_limit_is_refused_and_not_cut(tmp_path: Path) -> None:
    output = run_kit(tmp_path, LIMITED, "-k", "five_million or large_value or long_names", "-v")
    outcomes = set(re.findall(r"::(Test\w+)::test_(\w+) (PASSED|FAILED)", output))
    assert outcomes == {
        ("TestLimited", "senders_of_five_million_characters", "PASSED"),
        ("TestLimited", "a_large_value", "PASSED"),
        ("TestLimited", "long_names_and_senders", "PASSED"),
        ("TestCutting", "senders_of_five_million_characters", "FAILED"),
        ("TestCutting", "a_large_value", "FAILED"),
        ("TestCutting", "long_names_and_senders", "PASSED"),
    }


def test_the_quick_and_general_tests_come_first(tmp_path: Path) -> None:
    output = run_kit(tmp_path, SILENT, "--collect-only", "-q")
    tests = [line.split("::")[-1].partition("[")[0] for line in output.splitlines()]
    order = ["test_get_returns_what_was_set", "test_records_name_everything", "test_claims"]
    order += ["test_the_store_behaves_like_a_dict", "test_mails_of_one_sender", "test_threads_meet"]
    assert sorted(order, key=tests.index) == order
    assert len(set(tests)) > 100


def test_every_test_of_the_kit_is_about_an_ability() -> None:
    for name in salmon_state.testing.__all__:
        suite = getattr(salmon_state.testing, name)
        for test in dir(suite):
            if test.startswith("test_"):
                module = getattr(suite, test).__module__.rpartition(".")[2]
                assert ability_of(module, test) in ABILITIES
                assert getattr(suite, test).__doc__


def test_a_forgotten_fixture_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from salmon_state.testing import ModelSuite\nclass TestIt(ModelSuite): pass\n"
    )
    ended = run_python("import pytest; pytest.main()", "-p", "no:cacheprovider", directory=tmp_path)
    assert "TestIt must override the fixture open_store" in ended.stdout


def run_python(
    program: str, *arguments: str, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---------------------------------------------------------------- what other processes are told


def break_down(store: StateStorage) -> None:
    raise LookupError("in the other process")


def die(store: StateStorage) -> None:
    os._exit(7)


def count(store: StateStorage, end: int) -> Iterator[int]:
    yield from range(end)


def pid(store: StateStorage) -> int:
    return os.getpid()


def wait(store: StateStorage) -> None:
    while True:
        os.read(os.pipe()[0], 1)


def test_a_process_works() -> None:
    with store_processes(MemoryStorage, 1) as (process,):
        process.call(tasks.do, "set", "app", "a@x", "A")
        assert process.call(tasks.do, "get", "app", "a@x") == "A"
        process.start(count, 3)
        assert [process.item() for _ in range(3)] == [0, 1, 2]
        assert process.result() is None
        first = process.call(pid)
        assert first != os.getpid()
    with store_processes(MemoryStorage, 1) as (process,):
        assert process.call(pid) == first  # it is used again, with a store of its own
        assert process.call(tasks.do, "get", "app", "a@x") == "START"


def test_a_process_stays_in_no_tests_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be away when the next test sends it what needs another import."""
    monkeypatch.chdir(tmp_path)
    with store_processes(MemoryStorage, 1) as (process,):
        of_process = Path(f"/proc/{process.call(pid)}/cwd")
        assert of_process.resolve() == tmp_path
    assert of_process.resolve() != tmp_path


class BreaksAtTheEnd(MemoryStorage):
    def _close(self) -> None:
        raise LookupError("at the end")


def test_what_a_failed_test_left_is_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), store_processes(BreaksAtTheEnd, 1):
        raise ZeroDivisionError
    with store_processes(MemoryStorage, 1) as (process,):
        assert process.call(tasks.do, "get", "app", "a@x") == "START"


def test_an_error_in_a_process_arrives() -> None:
    with store_processes(MemoryStorage, 1) as (process,):
        with pytest.raises(LookupError, match="in the other process") as caught:
            process.call(break_down)
        assert "def break_down" not in str(caught.value)
        assert "in break_down" in str(caught.value.__cause__)
        assert process.call(pid) > 0


class DriverError(Exception):
    """As of some drivers: what is unpickled gives it one argument, and it takes two."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")


def fail_in_the_driver(store: StateStorage) -> None:
    raise DriverError(7, "no such table")


def fail_with_a_lock(store: StateStorage) -> None:
    raise LookupError("no such table", threading.Lock())


@pytest.mark.parametrize("fail", [fail_in_the_driver, fail_with_a_lock])
def test_an_error_that_cannot_be_sent_arrives(fail: Callable[[StateStorage], None]) -> None:
    with store_processes(MemoryStorage, 1) as (process,):
        with pytest.raises(RuntimeError, match=r"Error: .*no such table") as caught:
            process.call(fail)
        assert f"in {fail.__name__}" in str(caught.value.__cause__)
        assert process.call(pid) > 0


def test_what_cannot_be_sent_to_a_process_is_named() -> None:
    with (
        pytest.raises(TypeError, match=r"a functools\.partial, a class or a function .*<lambda>"),
        store_processes(lambda: MemoryStorage(), 1),
    ):
        pass


def test_a_process_that_dies_is_reported() -> None:
    with (
        store_processes(MemoryStorage, 1) as (process,),
        pytest.raises(AssertionError, match=r"process died.*exitcode=7"),
    ):
        process.call(die)


def test_a_stuck_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with store_processes(MemoryStorage, 1) as (process,):
        monkeypatch.setattr(processes, "PATIENCE", 0.2)
        with pytest.raises(AssertionError, match="stuck"):
            process.call(wait)
        monkeypatch.undo()
        assert not process.usable


def test_a_forked_child_that_is_stuck_is_killed_and_named() -> None:
    """Wherever it is: this one is in what the store does before its fork has returned."""
    test = "test_forks_while_another_thread_writes"
    suite = f"{wrong_suites.__file__}::TestWaitsInTheChild_{test}::{test}"
    root = Path(wrong_suites.__file__).parents[2]
    ended = run_python(
        "import pytest; pytest.main()", "-p", "no:cacheprovider", suite, directory=root
    )
    assert "a forked child was stuck in the store, and was killed after 1 s" in ended.stdout


class Stuck(Forkable):
    """Has children wait for ever, before their fork has returned."""

    def after_fork(self, *, child: bool) -> None:
        if child:
            signal.pause()


_watch = ForkWatch()


def leave_and_end(store: StateStorage) -> None:
    mails.leave_a_child(store, "a@x")
    mails.end_children(store)


@pytest.mark.parametrize(
    "call",
    [
        lambda store: call_in_child(store, tasks.read),
        lambda store: die_in_step(store, ["a@x", "b@x"], 1, 9),
        lambda store: mails.fork_inside(store, "a@x"),
        mails.close_in_a_child,
        leave_and_end,
    ],
    ids=["call", "step", "inside", "close", "leave"],
)
def test_no_child_of_the_kit_is_waited_for_in_vain(
    call: Callable[[StateStorage], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking.ending_of, "__defaults__", (0.2,))
    stuck = Stuck()
    _watch.add(stuck)
    with MemoryStorage() as store, pytest.raises(AssertionError, match=r"killed after 0\.2 s"):
        call(store)


def test_a_process_that_is_busy_is_not_used_again() -> None:
    with store_processes(MemoryStorage, 1) as (process,):
        process.start(wait)
        busy: StoreProcess = process
    with store_processes(MemoryStorage, 1) as (process,):
        assert process is not busy
        process.start(wait)
        assert process.kill() == []


def test_threads_report_the_first_error() -> None:
    def fail() -> Any:
        raise LookupError("in a thread")

    assert run_together([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(LookupError, match="in a thread"):
        run_together([lambda: 1, fail])
