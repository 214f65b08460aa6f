from __future__ import annotations

import copy
import pickle
import sys
import traceback

import pytest
from salmon.server import SMTPError

import salmon_state
from salmon_state import ConfigurationError, ConversationBusy, StorageError, StorageUnavailable

TEMPORARY = [StorageUnavailable, ConversationBusy]
DETAILS = ["refused by db:5432", "two\nlines", "é\udcff\0", "250 OK\r\n250 really", ""]


@pytest.mark.parametrize("kind", TEMPORARY)
@pytest.mark.parametrize("detail", DETAILS, ids=ascii)
def test_what_goes_onto_the_wire_is_constant(kind: type[StorageUnavailable], detail: str) -> None:
    error = kind(detail)
    assert str(error) == str(kind("something else"))
    assert str(error).startswith("451 4.3.0 ")
    assert str(error).isascii()
    assert str(error).isprintable()
    assert error.code == 451
    assert error.message == str(error)[4:]  # what Salmon's LMTP and SMTP receivers send


def test_each_kind_has_its_own_text() -> None:
    assert str(StorageUnavailable("x")) == "451 4.3.0 State store unavailable, try again later"
    assert str(ConversationBusy("x")) == "451 4.3.0 Conversation busy, try again later"


@pytest.mark.parametrize("kind", TEMPORARY)
def test_the_detail_is_for_people(kind: type[StorageUnavailable]) -> None:
    error = kind("refused by db:5432")
    assert error.detail == "refused by db:5432"
    assert repr(error) == f"{kind.__name__}('refused by db:5432')"
    assert error.__notes__ == ["refused by db:5432"]
    shown = "".join(traceback.format_exception(error))
    assert "refused by db:5432" in shown or sys.version_info < (3, 11)


@pytest.mark.parametrize("kind", [StorageError, ConfigurationError, *TEMPORARY])
def test_each_error_has_a_detail(kind: type[StorageError]) -> None:
    assert kind("refused by db:5432").detail == "refused by db:5432"


def test_a_detail_is_optional() -> None:
    assert StorageUnavailable().detail == "the store is unavailable"


@pytest.mark.parametrize("kind", TEMPORARY)
def test_temporary_errors_survive_copying(kind: type[StorageUnavailable]) -> None:
    error = kind("refused\nby \udcff")
    copies = [pickle.loads(pickle.dumps(error, number)) for number in range(2, 6)]
    for its in (*copies, copy.copy(error), copy.deepcopy(error)):
        assert type(its) is kind
        assert (str(its), its.detail, its.code) == (str(error), error.detail, 451)
        assert its.__notes__ == [error.detail]


@pytest.mark.parametrize("kind", [StorageError, ConfigurationError])
def test_lasting_errors(kind: type[StorageError]) -> None:
    error = kind("cannot work")
    assert str(error) == "cannot work"
    assert not isinstance(error, SMTPError)  # trying again would not mend it
    assert str(pickle.loads(pickle.dumps(error))) == "cannot work"


def test_family() -> None:
    assert issubclass(ConversationBusy, StorageUnavailable)
    assert issubclass(StorageUnavailable, SMTPError)
    for name in ("StorageUnavailable", "ConfigurationError", "ConversationBusy"):
        assert issubclass(getattr(salmon_state, name), StorageError)
