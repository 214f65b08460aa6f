"""A disk that is full: nobody hears 250 for what is not kept, and all goes on afterwards."""

from __future__ import annotations

import errno
import os
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from salmon_state import open_storage
from salmon_state.mail.outbox import Outbox
from tests.end_to_end.conftest import Serve, States
from tests.end_to_end.mail_server import DOMAIN, MailServer, wait_until

PEOPLE = [f"{number}@example.com" for number in range(20)]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, on which the server has all that it writes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk is mounted by root only, and where the kernel lets it: run as root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Writes until there is no space at all; returns the file that has it."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while has_space(file, size):
                pass
    return path


def has_space(file: FileIO, size: int) -> bool:
    try:
        return file.write(b"x" * size) > 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


def subscribe(server: MailServer, person: str) -> int:
    """Sends a mail; returns what it was answered."""
    try:
        server.send(person, "news-subscribe")
    except smtplib.SMTPSenderRefused as error:
        return error.smtp_code
    except smtplib.SMTPDataError as error:
        return error.smtp_code
    return 250


def all_are_asked(server: MailServer, state_url: str) -> None:
    """Waits until each person was asked to confirm, once."""
    with open_storage(state_url) as store:
        outbox = Outbox(store)

        def is_over() -> bool:
            for mail in outbox.pending():
                outbox.retry(mail)  # what could not be sent is tried again after minutes
            found = {person: len(server.mail_to(person)) for person in PEOPLE}
            return found == dict.fromkeys(PEOPLE, 1)

        wait_until(is_over, "everybody to be asked")


def test_a_client_is_told_to_come_again(serve: Serve, states: States, state_url: str) -> None:
    server = serve()
    first, *others = PEOPLE
    assert subscribe(server, first) == 250
    filling = fill(server.directory)
    answers = {person: subscribe(server, person) for person in others}
    assert set(answers.values()) <= {250, 451, 452}
    assert 451 in answers.values()
    filling.unlink()
    assert {person for person, code in answers.items() if code == 250} == states().keys() - {first}
    for person, code in answers.items():
        assert code == 250 or subscribe(server, person) == 250
    assert states() == dict.fromkeys(PEOPLE, "CONFIRMING")
    all_are_asked(server, state_url)
    assert server.stop(signal.SIGTERM) == 0


def test_a_queue_keeps_its_mails(serve: Serve, states: States, state_url: str) -> None:
    server = serve(receiver="queue")
    queue = server.directory / "run" / "queue"
    for number, person in enumerate(PEOPLE):
        text = f"From: {person}\nTo: news-subscribe@{DOMAIN}\n\nhello\n"
        (queue / "tmp" / f"{number}").write_text(text)
    filling = fill(server.directory)
    for path in (queue / "tmp").iterdir():
        path.rename(queue / "new" / path.name)
    wait_until(lambda: any((queue / "later").iterdir()), "a mail to wait for its time")
    filling.unlink()
    wait_until(lambda: states() == dict.fromkeys(PEOPLE, "CONFIRMING"), "all to be handled")
    all_are_asked(server, state_url)
    left = [path for name in ("new", "cur", "later") for path in (queue / name).iterdir()]
    assert left == []
    assert server.stop(signal.SIGTERM) == 0
