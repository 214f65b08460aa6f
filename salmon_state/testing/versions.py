"""VersionSuite: what one version of Python wrote, another one reads."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import salmon_state
from salmon_state.testing import other_python, processes, tasks
from salmon_state.testing.keys import HOSTILE_KEYS
from salmon_state.testing.suite import NOON, OpenStore, StoreSuite, contents, set_clock

__all__ = ["VersionSuite"]

OTHERS = [f"3.{minor}" for minor in range(10, 15) if (3, minor) != sys.version_info[:2]]
_STATES = [(module, sender, f"S{n}") for n, (module, sender) in enumerate(HOSTILE_KEYS)]


class VersionSuite(StoreSuite):
    """A durable store whose place is shared by different Pythons, as during an upgrade.

    Tried is every other Python that is found in ``PATH`` or installed beside the running one, and
    that can import the store: with its own packages, and with those of the running Python as far
    as they are written in Python.
    """

    @pytest.fixture(params=OTHERS)
    def elsewhere(self, request: pytest.FixtureRequest) -> Callable[..., Any]:
        """Calls a function with the store in another Python."""
        python = _interpreter(request.param)
        if python is None:
            pytest.skip(f"there is no Python {request.param} on this machine")
        return _other_python(python).call

    def test_written_there_and_read_here(
        self, open_store: OpenStore, elsewhere: Callable[..., Any]
    ) -> None:
        """Every hostile key that another Python wrote is found, and listed."""
        elsewhere(open_store, tasks.set_many, _STATES)
        with open_store() as store:
            assert [store.get(*key) for key in HOSTILE_KEYS] == [state for *_, state in _STATES]
            assert contents(store) == {(module, sender): s for module, sender, s in _STATES}

    def test_written_here_and_read_there(
        self, open_store: OpenStore, elsewhere: Callable[..., Any]
    ) -> None:
        """Every hostile key written here is found by another Python, and listed with its time."""
        with open_store() as store:
            set_clock(store, NOON)
            for entry in _STATES:
                store.set(*entry)
            (moment,) = {record.updated_at for record in store}
        found, records = elsewhere(open_store, tasks.get_and_list, HOSTILE_KEYS)
        assert found == [state for *_, state in _STATES]
        assert sorted(records, key=ascii) == sorted(
            ((*entry, moment) for entry in _STATES), key=ascii
        )


@cache
def _interpreter(version: str) -> str | None:
    for candidate in _candidates(version):
        # What is found may be a shim that only tells how to choose a version.
        answer = subprocess.run(  # noqa: S603 - a Python of this machine
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=processes.PATIENCE,
            check=False,
        )
        if answer.stdout.strip() == version:
            return candidate
    return None


def _candidates(version: str) -> Iterator[str]:
    found = shutil.which(f"python{version}")
    if found:
        yield found
    installations = Path(sys.base_prefix).parent
    yield from map(str, sorted(installations.glob(f"*/bin/python{version}")))


class _OtherPython:
    """Another Python that waits for something to do, as starting one takes longer than a test.

    It ends with this process, which closes the pipe.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self._pipe, theirs = multiprocessing.Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is as long as the process is
        program = (
            f"import sys; sys.path += {_own_path()!r}; "
            f"from {other_python.__name__} import main; main()"
        )
        self._process = subprocess.Popen(  # noqa: S603 - a Python of this machine
            [python, "-W", "ignore", "-c", program, str(theirs.fileno())],
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def call(self, open_store: OpenStore, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what a function returns that is called there with the opened store."""
        errors, result = self._ask(pickle.dumps((os.getcwd(), open_store, function, arguments), 4))
        if other_python.CANNOT_IMPORT in errors or "ModuleNotFoundError" in errors:
            pytest.skip(f"{Path(self._python).name} {errors.strip().splitlines()[-1]}")
        assert not errors, f"{self._python}:\n{errors}"
        return result

    def _ask(self, request: bytes) -> tuple[str, Any]:
        try:
            self._pipe.send_bytes(request)
            if self._pipe.poll(processes.PATIENCE * 2):
                answer: tuple[str, Any] = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - our own
                return answer
        except (EOFError, OSError):
            pass
        del _STARTED[self._python]
        self._pipe.close()
        self._process.kill()
        self._process.wait()
        with self._errors as errors:
            errors.seek(0)
            return errors.read().decode(errors="replace") or "it was stuck, or died", None


_STARTED: dict[str, _OtherPython] = {}


def _other_python(python: str) -> _OtherPython:
    if python not in _STARTED:
        _STARTED[python] = _OtherPython(python)
    return _STARTED[python]


def _own_path() -> list[str]:
    """Where this Python finds what the other one may use: all but the standard library."""
    library = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    library |= {f"{path}/lib-dynload" for path in library}
    own = str(Path(salmon_state.__file__).parents[1])
    return [path for path in (*sys.path, own) if path and path not in library]
