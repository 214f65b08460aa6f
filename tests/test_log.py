"""What salmon-state has to say is heard, unless it was told to be silent."""

from __future__ import annotations

import io
import logging
import logging.config
from collections.abc import Iterator

import pytest

from salmon_state import MemoryStorage, StorageError
from salmon_state.log import log

FILE = """
[loggers]
keys={names}
[handlers]
keys=
[formatters]
keys=
[logger_root]
level=DEBUG
handlers=
[logger_ours]
qualname=salmon_state
level=CRITICAL
handlers=
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """What a test does to the loggers of the process ends with it."""
    loggers = [
        logging.getLogger(),
        *(x for x in logging.Logger.manager.loggerDict.values() if isinstance(x, logging.Logger)),
    ]
    before = [(x, x.level, x.disabled, x.propagate, x.handlers[:]) for x in loggers]
    yield
    for logger, level, disabled, propagate, handlers in before:
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers[:] = disabled, propagate, handlers


def configure_by_file(names: str = "root") -> None:
    logging.config.fileConfig(io.StringIO(FILE.format(names=names)))


def configure_by_dict() -> None:
    logging.config.dictConfig({"version": 1, "root": {"level": "DEBUG"}})


class Heard(logging.Handler):
    """Remembers what reaches the root."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def heard() -> list[str]:
    """Has a store say something; returns what reaches the root."""
    handler = Heard()
    logging.getLogger().addHandler(handler)
    with MemoryStorage(protect=True) as store, pytest.raises(StorageError):
        store._raise(RuntimeError("the disk is on fire"))
    logging.getLogger().removeHandler(handler)
    return handler.texts


@pytest.mark.parametrize("configure", [configure_by_file, configure_by_dict])
def test_it_is_heard_after_others_were_disabled(configure: object) -> None:
    assert callable(configure)
    for _ in range(2):  # it may have said something before, and be configured again
        configure()
        assert logging.getLogger("salmon_state").disabled
        assert heard() == ["<MemoryStorage>: RuntimeError: the disk is on fire"]


def test_it_may_be_named_in_the_file() -> None:
    configure_by_file("root,ours")
    assert heard() == []
    log().setLevel(logging.ERROR)
    assert len(heard()) == 1


@pytest.mark.parametrize("how", ["level", "disabled"])
def test_whoever_silences_it_is_obeyed(how: str) -> None:
    configure_by_file()
    assert heard()
    logger = logging.getLogger("salmon_state")
    if how == "level":
        logger.setLevel(logging.CRITICAL)
        configure_by_dict()
    else:
        logger.disabled = True
    assert heard() == []
