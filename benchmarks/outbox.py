"""A post to many: the outbox beside sending from the handler, as Salmon's relay does.

``python -m benchmarks.outbox [RECIPIENTS] [URL]``; the relay and the dispatcher are processes of
their own, and what another mail takes meanwhile is measured beside.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from salmon.server import Relay

from salmon_state import StateStorage, open_storage
from salmon_state.mail.outbox import Outbox

RECIPIENTS = 10_000
TODAYS = 500
"""Recipients that are enough to know how long each takes."""

MESSAGE = b"Subject: hello\r\n\r\n" + b"A line of some text, as there are in mails.\r\n" * 40

SENTENCE = (
    "recorded in {answered:.0f} ms, sent {ours:,.0f} a second, one by one {todays:,.0f}, "
    "ratio {ratio:.1f}; p99 of {beside} other mails {busy:.2f} ms, {idle:.2f} when idle"
)


class Sink(asyncio.Protocol):
    """A mail server that counts the recipients it took mail for."""

    taken: Any
    in_data = False
    recipients = 0
    buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = b"\r\n.\r\n" if self.in_data else b"\r\n"
            line, found, rest = self.buffer.partition(end)
            if not found:
                return
            self.buffer = rest
            verb = line[:4].upper()
            if self.in_data:
                self.in_data = False
                self.taken.value += self.recipients
            elif verb == b"MAIL":
                self.recipients = 0
            elif verb == b"RCPT":
                self.recipients += 1
            elif verb == b"DATA":
                self.in_data = True
            self.transport.write(b"354 go on\r\n" if self.in_data else b"250 OK\r\n")


def serve(port: Any, taken: Any) -> None:
    """Runs a sink until it is killed."""
    Sink.taken = taken

    async def listen() -> None:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(listen())


@contextmanager
def sink() -> Iterator[tuple[int, Any]]:
    """Gives the port of a sink, and the count of what it took."""
    context = multiprocessing.get_context("spawn")
    port, taken = context.Value("i", 0), context.Value("i", 0)
    process = context.Process(target=serve, args=(port, taken), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    yield port.value, taken
    process.kill()


def envelopes(count: int, *, each: bool) -> Iterator[tuple[str, str]]:
    """Yields recipients, with an envelope sender each or one for all."""
    for number in range(count):
        own = f"news-bounce-{number:033}-reader{number}=40example.com@lists.example.com"
        yield f"reader{number}@example.com", own if each else "news@lists.example.com"


def todays_rate(port: int, *, each: bool) -> float:
    """Returns how many copies a second a handler sends through Salmon's relay."""
    relay = Relay("127.0.0.1", port)
    began = time.perf_counter()
    for recipient, sender in envelopes(TODAYS, each=each):
        relay.deliver(MESSAGE.decode(), To=recipient, From=sender)
    return TODAYS / (time.perf_counter() - began)


def other_mails(outbox: Outbox, until: Any) -> list[float]:
    """Returns what each of some mails took that others send meanwhile, with an answer each."""
    took = []
    for number in range(100_000):
        began = time.perf_counter()
        store, sender = outbox.storage, f"{number % 50}@example.com"
        with store.conversation(sender):
            store.set("app.handlers", sender, f"STATE_{number}")
        took.append(time.perf_counter() - began)
        if until(len(took)):
            return took
        time.sleep(0.002)
    return took


def measure(store: StateStorage, url: str, count: int, *, each: bool) -> dict[str, float]:
    """Returns the figures of one post."""
    with ExitStack() as ends:
        port, taken = ends.enter_context(sink())
        todays = todays_rate(port, each=each)
        taken.value = 0
        outbox = Outbox(store)
        idle = other_mails(outbox, lambda done: done == 1000)
        began = time.perf_counter()
        with store.conversation("author@example.com"):
            outbox.fan_out(MESSAGE, envelopes(count, each=each))
        answered = time.perf_counter() - began
        module = "salmon_state.mail.dispatch"
        command = [sys.executable, "-m", module, url, "--relay", f"127.0.0.1:{port}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        ends.callback(process.wait)
        ends.callback(process.terminate)
        while not taken.value:
            time.sleep(0.001)
        began, before = time.perf_counter(), taken.value
        busy = other_mails(outbox, lambda _: taken.value >= count)
        rate = (count - before) / (time.perf_counter() - began)
        while outbox.backlog().pending:
            time.sleep(0.01)
        assert taken.value == count, taken.value
    p99 = [statistics.quantiles(times, n=100)[98] * 1000 for times in (idle, busy)]
    return {
        "answered": answered * 1000,
        "ours": rate,
        "todays": todays,
        "ratio": rate / todays,
        "beside": len(busy),
        "busy": p99[1],
        "idle": p99[0],
    }


def main() -> None:
    """Prints the rates and their ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RECIPIENTS
    with tempfile.TemporaryDirectory() as directory:
        url = sys.argv[2] if len(sys.argv) > 2 else f"sqlite:///{directory}/states.db"
        with open_storage(url) as store:
            for each in (True, False):
                found = measure(store, url, count, each=each)
                senders = "an envelope sender each" if each else "one for all"
                print(f"{count:,} recipients, {senders}: " + SENTENCE.format(**found))


if __name__ == "__main__":
    main()
