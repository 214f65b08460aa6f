"""Single bits flipped in a closed file: what each way to read it finds, and what none does.

``pytest -m stress -o log_cli=1 --log-cli-level=INFO tests/stress/test_flips.py`` shows the figures.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from salmon_state import ShelveStorage, SQLAlchemyStorage, StateStorage, StorageError
from salmon_state.entries import Kind, Write

pytestmark = pytest.mark.stress
log = logging.getLogger(__name__)

MODULES = ("app.handlers", "app.bounces")
STATES = {(m, f"subscriber{n}@example.com"): "POSTING" for n in range(150) for m in MODULES}
FLIPS = 200

OPEN: dict[str, Callable[[Path], StateStorage]] = {
    "sqlite": lambda path: SQLAlchemyStorage(f"sqlite:///{path}"),
    "shelve": ShelveStorage,
}


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def get_all(store: StateStorage) -> Counter[str]:
    found: Counter[str] = Counter()
    for key, state in STATES.items():
        try:
            got = store.get(*key)
        except StorageError:
            found["get: an error"] += 1
            continue
        if got != state:
            found["get: a silent START" if got == "START" else "get: a wrong state"] += 1
    return found


def list_all(store: StateStorage) -> Counter[str]:
    try:
        records = [((record.module, record.sender), record.state) for record in store.records()]
    except StorageError:
        return Counter({"records: an error": 1})
    wrong = len(records) != len(STATES) or dict(records) != STATES
    return Counter({"records: silently wrong": int(wrong)})


def trial(path: Path, name: str) -> Counter[str]:
    """Returns what happened, by name, each at most once."""
    try:
        store = OPEN[name](path)
    except StorageError:
        return Counter({"refused when it is opened": 1})
    with closing(store):
        found = get_all(store) + list_all(store)
        try:
            damage = list(store.check())
        except StorageError as error:
            damage = [str(error)]
    outcome = Counter(dict.fromkeys(found, 1))
    outcome["check: found"] = int(bool(damage))
    if not damage:
        for what in ("get: a silent START", "get: a wrong state", "records: silently wrong"):
            if what in outcome:
                outcome[f"{what}, not found by check"] = 1
    return outcome


@pytest.mark.parametrize("name", OPEN)
def test_what_is_missing_is_found(tmp_path: Path, name: str) -> None:
    """No flip makes a conversation vanish without `check` finding it."""
    whole = tmp_path / "whole"
    whole.mkdir()
    with OPEN[name](whole / "states") as store:
        states = (Write(Kind.STATE, s, m, state, 10**15) for (m, s), state in STATES.items())
        store._commit(states)
        store._commit(Write(Kind.HANDLED, f"{n}@x", "id", b"x" * 50, 10**15) for n in range(150))
        assert list(store.check()) == []
    chance = random.Random(1)
    total: Counter[str] = Counter()
    for number in range(FLIPS):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        flip(copy / "states", chance)
        total += trial(copy / "states", name)
        shutil.rmtree(copy)
    for what, count in sorted(total.items()):
        log.info("%s: %s: %d of %d", name, what, count, FLIPS)
    assert not total["get: a silent START, not found by check"]
