"""A post to many through a relay that does what relays do; nobody else waits for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from salmon_state import open_storage
from salmon_state.mail.outbox import Outbox
from tests.end_to_end.conftest import KEY, Serve
from tests.end_to_end.mail_server import wait_until
from tests.end_to_end.smtp_sink import SMTPSink

READERS = 1_000
BEN = "ben@example.com"


def test_a_post_to_a_thousand_while_somebody_subscribes(
    serve: Serve, state_url: str, tmp_path: Path
) -> None:
    """The relay hangs; then it refuses every third for now, every fifth for good, and closes."""
    (tmp_path / "run").mkdir()
    asked: Counter[str] = Counter()

    def answer(recipient: str) -> str:
        asked[recipient] += 1
        number = recipient.strip("<>").partition("@")[0]
        if number.isdecimal() and int(number) % 5 == 0:
            return "550 5.1.1 nobody"
        if number.isdecimal() and int(number) % 3 == 0 and asked[recipient] == 1:
            return "451 4.3.2 later"
        return "250 OK"

    with SMTPSink() as sink, open_storage(state_url) as store:
        for number in range(READERS):
            store.set(KEY, f"{number}@x.de", "POSTING")
        outbox = Outbox(store)
        sink.answer_to, sink.most = answer, 10
        sink.may_answer.clear()
        server = serve(RELAY=sink.address)
        server.send("0@x.de", "news")
        server.send(BEN, "news-subscribe")
        assert sink.mails == []
        assert outbox.backlog().pending
        sink.may_answer.set()
        at_once = {f"<{n}@x.de>" for n in range(READERS) if n % 5 and n % 3} | {f"<{BEN}>"}
        wait_until(lambda: at_once <= {to for _, to, _ in list(sink.mails)}, "who is not refused")

        def is_over() -> bool:
            for mail in outbox.pending():
                outbox.retry(mail)
            return not outbox.backlog().pending

        wait_until(is_over, "those who were refused for now")
        got = Counter(to for _, to, _ in sink.mails)
        dead = [to for mail in outbox.dead() for group in mail.groups for to in group.recipients]
    assert got == Counter([f"<{n}@x.de>" for n in range(READERS) if n % 5] + [f"<{BEN}>"])
    assert Counter(dead) == Counter(f"{n}@x.de" for n in range(READERS) if n % 5 == 0)
