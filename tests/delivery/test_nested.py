"""Mails for which handlers have no stack; Salmon, and Python, parse them all the same."""

from __future__ import annotations

from typing import Any

import pytest
from salmon.mail import MailRequest
from salmon.server import SMTPError

from salmon_state import MemoryStorage, attach
from salmon_state.testing.suite import contents
from tests.bombs import forwarded, nested
from tests.delivery.router import MODULE, Ring

ANNA = "anna@example.com"


def deliver(router: Any, data: bytes) -> None:
    router.deliver(MailRequest(("127.0.0.1", 25), ANNA, "ring@x", data))


def write(message: Any, state: str) -> None:
    message.base.mime_part.as_bytes()


@pytest.mark.parametrize("bomb", [nested(300), forwarded(300)], ids=["parts", "mails"])
def test_a_mail_that_is_nested_too_deeply_is_refused_and_the_state_stays(
    router: Any, bomb: bytes
) -> None:
    attach(router, MemoryStorage())
    ring = Ring(write)
    with pytest.raises(SMTPError) as refused:
        deliver(router, bomb)
    assert str(refused.value) == "554 5.6.0 This mail has too many parts within parts"
    assert (ring.ran, contents(router.STATE_STORE)) == ([], {})


@pytest.mark.parametrize(
    "mail",
    [nested(99), forwarded(99), b"\n" + nested(300)],
    ids=["parts", "mails", "text"],
)
def test_what_a_handler_can_write_is_delivered(router: Any, mail: bytes) -> None:
    attach(router, MemoryStorage())
    Ring(write)
    deliver(router, mail)
    assert contents(router.STATE_STORE) == {(MODULE, ANNA): "ONE"}
