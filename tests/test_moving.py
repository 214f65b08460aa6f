"""rename_module: killed in the middle, beside others, and never twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from salmon_state import MemoryStorage, open_storage
from salmon_state.entries import STATE, Write
from salmon_state.testing.processes import forking_context
from tests.operate.typing_commands import ANNA, BEN

CONTEXT = forking_context(__name__)


def rename_and_die(url: str, commits: int) -> None:
    """Is killed when it has asked for so many commits, and before the last of them happened."""
    with open_storage(url) as store:
        real, left = store._commit, [commits]

        def commit(writes: Iterable[Write]) -> list[int]:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(writes)

        store._commit = commit  # type: ignore[method-assign]
        store.rename_module("old", "new")


def test_killed_in_the_middle(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/states.db"
    total = 1_500
    with open_storage(url) as store:
        store._commit([Write(STATE, f"{n:05}@x", "old", f"S{n}", n) for n in range(total)])
        process = CONTEXT.Process(target=rename_and_die, args=(url, 2))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        old, new = ({record[1:] for record in store.records(module=m)} for m in ("old", "new"))
        assert old
        assert new
        assert (len(old | new), old & new) == (total, set())
        assert store.rename_module("old", "new") == len(old)
        assert {record[1:] for record in store.records(module="new")} == old | new
        assert not list(store.records(module="old"))


@pytest.mark.parametrize(
    ("module", "state", "expected"),
    [
        ("old", "LATER", {("new", ANNA, "LATER"), ("new", BEN, "S")}),
        ("old", "START", {("new", BEN, "S")}),
        ("new", "THERE", {("old", ANNA, "S"), ("new", ANNA, "THERE"), ("new", BEN, "S")}),
    ],
)
def test_somebody_else_is_quicker(
    module: str, state: str, expected: set[tuple[str, str, str]]
) -> None:
    """What changed after it was read is moved as it is now; what is there is not overwritten."""
    with MemoryStorage() as store:
        for sender in (ANNA, BEN):
            store.set("old", sender, "S")
        real: Any = store._commit

        def commit(writes: Iterable[Write]) -> list[int]:
            store._commit = real  # type: ignore[method-assign]
            store.set(module, ANNA, state)
            done: list[int] = real(writes)
            return done

        store._commit = commit  # type: ignore[method-assign]
        moved = store.rename_module("old", "new")
        assert {record[:3] for record in store.records()} == expected
        assert moved == sum(each[0] == "new" for each in expected) - (module == "new")
