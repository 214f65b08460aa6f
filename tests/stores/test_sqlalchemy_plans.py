"""How the databases find what they are asked for, among many thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import SQLAlchemyStorage
from salmon_state.storage import Change
from salmon_state.stores.sqlalchemy.schema import module_digest, sender_digest
from salmon_state.stores.sqlalchemy.statements import Statement
from tests.stores.sqlalchemy_places import Place

ROWS = 50_000

VALUES = {
    "sender": sender_digest("4711@x"),
    "module": module_digest("app"),
    "rows": 1,
    "expected": "POSTING",
    "to_state": "LATER",
    "now": 1,
    "in_state": "POSTING",
    "size": 1000,
    "after_sender": sender_digest("4711@x"),
    "after_module": module_digest("app"),
    "last_sender": b"\xff" * 32,
    "before": 5,
}

FILTERS: dict[str, Any] = {"module": False, "state": False}


@pytest.fixture(scope="module", params=("sqlite", "postgresql", "mariadb"))
def full(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, SQLAlchemyStorage]]:
    """A store with many rows, whose database knows that they are many."""
    if request.param == "sqlite":
        path: Path = tmp_path_factory.mktemp("plans") / "states.db"
        place = Place("sqlite", f"sqlite:///{path}")
    else:
        server = request.getfixturevalue(request.param)
        place = Place(request.param, server.fresh_database(), server)
    with SQLAlchemyStorage(place.url) as store:
        for start in range(0, ROWS, 10_000):
            store._write(
                Change("app", f"{number}@x", "POSTING", number)
                for number in range(start, start + 10_000)
            )
        table = "" if place.kind == "sqlite" else " salmon_state"
        place.run(f"{'ANALYZE TABLE' if place.kind == 'mariadb' else 'ANALYZE'}{table}")
        yield place, store


def plan(store: SQLAlchemyStorage, place: Place, statement: Statement) -> str:
    """Returns the plan as the store's own connection gets it, in one line."""
    explain = "EXPLAIN QUERY PLAN " if place.kind == "sqlite" else "EXPLAIN "
    parameters = statement.bind(**VALUES)

    def ask(driver: Any) -> list[Any]:
        cursor = driver.cursor()
        cursor.execute(explain + statement.sql, parameters)
        rows = list(cursor.fetchall())
        cursor.close()
        return rows

    return " ".join(str(field) for row in store._connections.run(ask) for field in row)


@pytest.mark.parametrize(
    "choose",
    [
        lambda say: say.get,
        lambda say: say.get_sender,
        lambda say: say.remove,
        lambda say: say.set_expected,
        lambda say: say.remove_expected,
        lambda say: say.set_all,
        lambda say: say.remove_all,
        lambda say: say.page(sender=True, first=True, **FILTERS),
        lambda say: say.page(sender=True, first=False, **FILTERS),
        lambda say: say.page(sender=False, first=True, **FILTERS),
        lambda say: say.page(sender=False, first=False, **FILTERS),
        lambda say: say.page(sender=False, first=False, module=False, state=True),
        lambda say: say.change_batch(idle=True, remove=True, **FILTERS),
    ],
    ids=[
        "get", "get_sender", "remove", "set_expected", "remove_expected", "set_all", "remove_all",
        "page of a sender", "next page of a sender", "page", "next page",
        "next page in a state", "batch",
    ],
)  # fmt: skip
def test_the_primary_key_is_used(
    full: tuple[Place, SQLAlchemyStorage],
    choose: Callable[[Any], Statement],
    request: pytest.FixtureRequest,
) -> None:
    place, store = full
    text = plan(store, place, choose(store._statements))
    if place.kind == "sqlite":
        page = request.node.callspec.id.endswith("-page")  # the first: all rows in their order
        assert page or "USING PRIMARY KEY" in text, text
        assert "TEMP B-TREE" not in text
    elif place.kind == "postgresql":
        assert "salmon_state_pkey" in text or "batch" in request.node.callspec.id, text
        assert " Sort " not in text
    else:
        assert " PRIMARY " in text, text
        assert "filesort" not in text
    if place.kind != "sqlite" and "batch" not in request.node.callspec.id:
        assert "Seq Scan" not in text
        assert " ALL " not in text


@pytest.mark.parametrize("filters", [{"state": "NOWHERE"}, {"module": "nobody"}], ids=str)
def test_a_page_goes_through_few_rows(
    full: tuple[Place, SQLAlchemyStorage], filters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for what is rare has many statements run for it, none of them long."""
    _, store = full
    fetched: list[int] = []
    run = store._connections.run

    def counted(operation: Any, sql: str, parameters: Any) -> Any:
        rows = run(operation, sql, parameters)
        fetched.append(len(rows))
        return rows

    monkeypatch.setattr(store._connections, "run", counted)
    assert list(store.records(**filters)) == []
    # Each gives all rows that it goes through, in the order of the key, and ends with the last.
    assert sum(fetched) == ROWS
    assert max(fetched) == 1_000
