"""What is refused before it is parsed, and what must not be."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from salmon_state.mail.receivers.complexity import is_too_complex
from tests.bombs import BOMBS, forwarded, nested


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_seen(name: str) -> None:
    assert is_too_complex(BOMBS[name])


def repr_of_start(data: bytes) -> str:
    return repr(data[:20])


def large() -> EmailMessage:
    """Returns what a person may well send: fifty photographs, each with a name in UTF-8."""
    mail = EmailMessage()
    mail["To"] = ", ".join(f"Somebody <somebody{number}@example.com>" for number in range(1_000))
    mail["Subject"] = "Grüße " * 100
    mail.set_content("hello\n-- \nBen\n")
    mail.add_alternative("<p>hello</p>", subtype="html")
    for _ in range(50):
        mail.add_attachment(b"x" * 130_000, "image", "jpeg", filename="bild å" * 40 + ".jpeg")
    return mail


def test_what_people_send_is_not() -> None:
    mail = large()
    assert 8_000_000 < len(mail.as_bytes()) < 10_000_000
    assert not is_too_complex(mail.as_bytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"hello",
        b"Subject: hi\n\n" + b"--;\n\n" * 700_000,
        nested(100),
        forwarded(100),
        b"From: a@x\n\n" + nested(250),
    ],
    ids=repr_of_start,
)
def test_what_is_cheap_is_not(data: bytes) -> None:
    assert not is_too_complex(data)
