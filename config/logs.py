"""Where it is written down what happens."""

from __future__ import annotations

import logging.config
from pathlib import Path

from config.environment import SettingsError
from config.run_directory import give_away

__all__ = ["log_to_file", "log_to_terminal"]


def log_to_file() -> None:
    """Writes what is logged to the file in ``logging.conf``.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        logging.config.fileConfig(
            Path(__file__).with_name("logging.conf"),
            disable_existing_loggers=False,
            encoding="utf-8",
        )
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):  # the dispatcher opens it once more
                give_away(Path(handler.baseFilename))
    except OSError as error:
        text = f"cannot write the log to {error.filename}: {error.strerror}"
        raise SettingsError(text) from None


def log_to_terminal() -> None:
    """Shows what is logged."""
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger().addHandler(terminal)
