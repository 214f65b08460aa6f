"""Conversations in a shelf, whose senders are locked in a file beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from salmon_state import ShelveStorage, open_storage
from salmon_state.entries import EVERY, STATE, Kind, Seen, Want, Write
from salmon_state.errors import Overtaken

ANNA = "anna@example.com"


def test_no_file_is_left_behind_for_each_sender(tmp_path: Path) -> None:
    with open_storage(f"shelve:///{tmp_path}/states") as store:
        files = []
        for number in range(30):
            with store.conversation(f"{number}@example.com"):
                store.set("app", f"{number}@example.com", "POSTING")
            files.append(len(os.listdir(tmp_path)))
    assert files[-1] == files[0]


def test_a_commit_in_a_pause_is_all_or_nothing(store: ShelveStorage) -> None:
    """It is a part of the pause's own transaction, which goes on when it fails."""
    with store.paused():
        store.set("app", ANNA, "POSTING")
        writes = [
            Write(STATE, ANNA, "app", "OTHER", 1),
            Write(STATE, ANNA, "more", "OTHER", 1, Seen("not this")),
        ]
        with pytest.raises(Overtaken):
            store._commit(writes)
        assert store.get("app", ANNA) == "POSTING"
        wants: list[Want] = [(STATE, EVERY), (Kind.HANDLED, "1")]
        assert [entry.value for entry in store._load(ANNA, wants)] == ["POSTING"]
        assert store.rename("app", "POSTING", "LATER") == 1
    assert [record.state for record in store] == ["LATER"]
