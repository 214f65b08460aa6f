"""Through how many files of ours a question and a mail go, on their way to the driver."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from salmon.routing import route

import salmon_state
from salmon_state import attach, open_storage
from tests.delivery.router import mail

ANNA = "anna@example.com"
PACKAGE = Path(salmon_state.__file__).parent


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/states.db"


def files_of(call: Callable[[], object]) -> set[Path]:
    """Returns the files of the package whose functions a call runs."""
    files: set[Path] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            files.add(path.relative_to(PACKAGE))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def test_a_get_on_sqlite(sqlite_url: str) -> None:
    with open_storage(sqlite_url) as store:
        store.set("app.handlers", ANNA, "POSTING")
        store.get("app.handlers", ANNA)
        files = files_of(lambda: store.get("app.handlers", ANNA))
    assert Path("storage.py") in files
    assert len(files) <= 5, sorted(files)


def test_a_mail_on_postgresql(router: Any, postgresql: Any) -> None:
    @route("list@(host)", host=".+")
    def START(message: Any, host: str) -> Any:  # noqa: N802 - a state
        return AGAIN

    @route("list@(host)", host=".+")
    def AGAIN(message: Any, host: str) -> Any:  # noqa: N802 - a state
        return START if "back" in message.body() else None

    with open_storage(postgresql.fresh_database()) as store:
        attach(router, store)
        for body in ("on", "back", "on"):
            router.deliver(mail(ANNA, "list@x", body))
        files = files_of(lambda: router.deliver(mail(ANNA, "list@x", "back")))
        assert len(store) == 0, "it was not handled"
    assert Path("mail/delivery.py") in files
    assert len(files) <= 9, sorted(files)
