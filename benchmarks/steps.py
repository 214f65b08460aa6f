"""What others call a step of what goes on: read where it is, and write where it is now."""

# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint


class LangGraph:
    """LangGraph's checkpoint savers, at the same durability as ours; a sender is a thread."""

    def __init__(self, url: str) -> None:
        self._saver, self._connection = _sqlite(url) if "sqlite" in url else _postgresql(url)
        self._saver.setup()
        if "sqlite" in url:  # the journal is its own: WAL
            self._connection.execute("PRAGMA synchronous = FULL")

    def step(self, module: str, sender: str, state: str) -> None:
        config: Any = {"configurable": {"thread_id": sender, "checkpoint_ns": ""}}
        found = self._saver.get_tuple(config)
        before = found.checkpoint["channel_versions"]["state"] if found else None
        version = self._saver.get_next_version(before, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"state": state}
        checkpoint["channel_versions"] = {"state": version}
        metadata = {"source": "loop", "step": 1, "parents": {}}
        self._saver.put(found.config if found else config, checkpoint, metadata, {"state": version})

    def close(self) -> None:
        self._connection.close()


def _sqlite(url: str) -> tuple[Any, Any]:
    from langgraph.checkpoint.sqlite import SqliteSaver

    path = Path(url.partition("///")[2])
    connection = sqlite3.connect(path, check_same_thread=False)
    return SqliteSaver(connection), connection


def _postgresql(url: str) -> tuple[Any, Any]:
    import psycopg
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.rows import dict_row

    connection: Any = psycopg.connect(  # as its documentation connects
        url.replace("+psycopg", ""), autocommit=True, prepare_threshold=0, row_factory=dict_row
    )
    return PostgresSaver(connection), connection


class DBOS:
    """A durable workflow of one step; there can be one in a process."""

    def __init__(self, url: str) -> None:
        import dbos

        dbos.DBOS(config={"name": "benchmark", "system_database_url": url, "log_level": "CRITICAL"})

        @dbos.DBOS.step()
        def change(state: str) -> str:
            return state

        @dbos.DBOS.workflow()
        def work(sender: str, state: str) -> str:
            return change(state)

        self._work = work
        self._destroy = dbos.DBOS.destroy
        dbos.DBOS.launch()

    def step(self, module: str, sender: str, state: str) -> None:
        self._work(sender, state)

    def close(self) -> None:
        self._destroy()
