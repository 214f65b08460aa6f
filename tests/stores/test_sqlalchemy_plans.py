"""How the databases find what they are asked for, among many thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salmon_state import SQLAlchemyStorage
from salmon_state.entries import ANYTHING, EVERY, Kind, Seen, Write
from salmon_state.stores.encoding import name_digest, sender_digest
from salmon_state.stores.sqlalchemy.statements import Statement, WriteStatement
from salmon_state.stores.sqlalchemy.tables import form_of
from tests.stores.sqlalchemy_places import Place

ROWS = 50_000

DIGESTS = (sender_digest("4711@x"), name_digest("app"))
VALUES = {
    "sender": DIGESTS[0],
    "name": DIGESTS[1],
    "kind": int(Kind.OUTGOING),
    "rows": 1,
    "value": "POSTING",
    "at": 1,
    "seen_value": "POSTING",
    "seen_at": 1,
    "before": 5,
    "size": 1000,
    **{
        f"{which}_{column}": value
        for which, sender in (("after", DIGESTS[0]), ("last", b"\xff" * 32))
        for column, value in (
            *(("sender_digest", sender), ("module_digest", DIGESTS[1])),
            *(("name_digest", DIGESTS[1]), ("at", 4), ("updated_at", 4)),
        )
    },
}

WRITE = Write(Kind.STATE, "5@x", "app", "POSTING", 1, Seen("POSTING", 1))

FILTERS = frozenset({"before"})
OF_SENDER = frozenset({"sender"})
IN_STATE = frozenset({"name", "value"})


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
            store._commit(
                Write(Kind.STATE, f"{number}@x", "app", "POSTING", number)
                for number in range(start, start + 10_000)
            )
        table = "" if place.kind == "sqlite" else " salmon_state"
        place.run(f"{'ANALYZE TABLE' if place.kind == 'mariadb' else 'ANALYZE'}{table}")
        yield place, store


def plan(store: SQLAlchemyStorage, place: Place, statement: Statement | WriteStatement) -> str:
    """Returns the plan as the store's own connection gets it, in one line."""
    explain = "EXPLAIN QUERY PLAN " if place.kind == "sqlite" else "EXPLAIN "
    if isinstance(statement, WriteStatement):
        parameters = statement.bind(store._tables.parameters(WRITE))
    else:
        parameters = statement.bind(VALUES)

    def ask(driver: Any) -> list[Any]:
        cursor = driver.cursor()
        cursor.execute(explain + statement.sql, parameters)
        rows = list(cursor.fetchall())
        cursor.close()
        return rows

    return " ".join(str(field) for row in store._pool.run(ask) for field in row)


@pytest.mark.parametrize(
    "choose",
    [
        lambda one, _: one.get,
        lambda one, _: one.get_sender,
        lambda one, _: one.writing(form_of(WRITE._replace(value=None, expect=ANYTHING))),
        lambda one, _: one.writing(form_of(WRITE)),
        lambda one, _: one.writing(form_of(WRITE._replace(value=None, expect=Seen("A", None)))),
        lambda one, _: one.writing(form_of(WRITE._replace(name=EVERY))),
        lambda one, _: one.writing(form_of(WRITE._replace(name=EVERY, value=None))),
        lambda _, many: many.page(filters=OF_SENDER, first=True, by="key"),
        lambda _, many: many.page(filters=OF_SENDER, first=False, by="key"),
        lambda _, many: many.page(filters=frozenset(), first=True, by="key"),
        lambda _, many: many.page(filters=frozenset(), first=False, by="key"),
        lambda _, many: many.page(filters=IN_STATE, first=False, by="key"),
        lambda _, many: many.change_batch(filters=FILTERS, by="key", remove=True, alone=1),
    ],
    ids=[
        "get", "get_sender", "remove", "set_expected", "remove_expected", "set_all", "remove_all",
        "page of a sender", "next page of a sender", "page", "next page",
        "next page in a state", "batch",
    ],
)  # fmt: skip
def test_the_primary_key_is_used(
    full: tuple[Place, SQLAlchemyStorage],
    choose: Callable[[Any, Any], Statement | WriteStatement],
    request: pytest.FixtureRequest,
) -> None:
    place, store = full
    text = plan(store, place, choose(store._tables.states, store._rows.states))
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
    full: tuple[Place, SQLAlchemyStorage], filters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for what is rare has many statements run for it, none of them long."""
    _, store = full
    fetched: list[int] = []
    run = store._pool.run

    def counted(operation: Any, sql: str, parameters: Any) -> Any:
        rows = run(operation, sql, parameters)
        fetched.append(len(rows))
        return rows

    monkeypatch.setattr(store._pool, "run", counted)
    assert list(store.records(**filters)) == []
    # Each gives all rows that it goes through, in the order of the key, and ends with the last.
    assert sum(fetched) == ROWS
    assert max(fetched) == 1_000
