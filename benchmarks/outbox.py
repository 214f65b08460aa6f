"""A post to many: the outbox beside sending from the handler, as Salmon's relay does.

The relay and the dispatcher are processes of their own, and what another mail takes meanwhile is
measured beside. ``python -m benchmarks.outbox [RECIPIENTS]`` measures it alone.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from typing import Any

from salmon.server import Relay

from benchmarks.places import Places, skipped_if_missing
from benchmarks.rounds import Plan, Ratio, percentile
from salmon_state import StateStorage, open_storage
from salmon_state.mail.outbox import Outbox

NAMES = ("sqlite", "postgresql")
RECIPIENTS = 10_000
TODAYS = 500
"""Recipients that are enough to know how long each takes."""
IDLE = 10
"""For each so many recipients one mail of others is measured before."""

MESSAGE = message_from_bytes(
    b"Subject: hello\r\n\r\n" + b"A line of some text, as there are in mails.\r\n" * 40
)


class Sink(asyncio.Protocol):
    """A mail server that counts the recipients it took mail for; with PIPELINING, as all have."""

    taken: Any
    in_data = False
    recipients = 0
    buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        answers = b""
        while True:
            end = b"\r\n.\r\n" if self.in_data else b"\r\n"
            line, found, rest = self.buffer.partition(end)
            if not found:
                break
            self.buffer = rest
            answers += self.obey(line[:4].upper())
        self.transport.write(answers)

    def obey(self, verb: bytes) -> bytes:
        """Returns the answer to a command, or to a message."""
        if self.in_data:
            self.in_data = False
            self.taken.value += self.recipients
        elif verb == b"EHLO":
            return b"250-sink\r\n250 PIPELINING\r\n"
        elif verb == b"MAIL":
            self.recipients = 0
        elif verb == b"RCPT":
            self.recipients += 1
        elif verb == b"DATA":
            self.in_data = True
            return b"354 go on\r\n"
        return b"250 OK\r\n"


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


def todays_rate(port: int, count: int, *, each: bool) -> float:
    """Returns how many copies a second a handler sends through Salmon's relay."""
    relay = Relay("127.0.0.1", port)
    began = time.perf_counter()
    for recipient, sender in envelopes(count, each=each):
        relay.deliver(MESSAGE, To=recipient, From=sender)
    return count / (time.perf_counter() - began)


def one_by_one(
    send: Callable[[int], object], is_over: Callable[[int], bool], rest: float
) -> list[float]:
    """Returns what each of the mails took that others send one after the other, in seconds.

    Args:
        send: Sends one; how many there were before.
        is_over: Whether there were enough; at least one is sent.
        rest: Seconds between two.
    """
    took: list[float] = []
    while not (took and is_over(len(took))):
        began = time.perf_counter()
        send(len(took))
        took.append(time.perf_counter() - began)
        time.sleep(rest)
    return took


def other_mails(store: StateStorage, is_over: Callable[[int], bool]) -> list[float]:
    """Returns what each of others' conversations took, in seconds."""

    def converse(number: int) -> None:
        sender = f"{number % 50}@example.com"
        with store.conversation(sender):
            store.set("app.handlers", sender, f"STATE_{number}")

    return one_by_one(converse, is_over, 0.002)


def post(store: StateStorage, url: str, count: int, *, each: bool) -> dict[str, Any]:
    """Returns the figures of one post, and what each of the other mails took."""
    with ExitStack() as ends:
        port, taken = ends.enter_context(sink())
        todays = todays_rate(port, min(count, TODAYS), each=each)
        taken.value = 0
        outbox = Outbox(store)
        idle = other_mails(store, lambda done: done * IDLE >= count)
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
        busy = other_mails(store, lambda _: taken.value >= count)
        rate = (count - before) / (time.perf_counter() - began)
        while outbox.backlog().pending:
            time.sleep(0.01)
        if taken.value != count:
            raise AssertionError(f"{taken.value} copies of {count} were sent")
    return {"answered": answered, "ours": rate, "todays": todays, "idle": idle, "busy": busy}


def measure(
    places: Places, plan: Plan, names: tuple[str, ...] = NAMES, count: int = RECIPIENTS
) -> dict[str, Any]:
    """Returns a row for each store and kind of envelope."""
    rows = []
    for name in names:
        print(f"  outbox: {name}", flush=True)
        with skipped_if_missing(name):
            for each in (True, False):
                url = places.url(name)
                with open_storage(url) as store:
                    found = [post(store, url, count, each=each) for _ in range(plan.rounds)]
                rows.append(_row(name, count, found, each=each))
    return {"rows": rows}


def _row(name: str, count: int, found: list[dict[str, Any]], *, each: bool) -> dict[str, Any]:
    ratios = [one["ours"] / one["todays"] for one in found]
    p99 = {
        when: percentile(sorted(took for one in found for took in one[when]), 0.99) * 1000
        for when in ("idle", "busy")
    }
    return {
        "group": name,
        "senders": "one each" if each else "one for all",
        "recipients": count,
        "answered_ms": max(one["answered"] for one in found) * 1000,
        "per_second": statistics.median(one["ours"] for one in found),
        "todays_per_second": statistics.median(one["todays"] for one in found),
        "ratio": Ratio(statistics.median(ratios), min(ratios), max(ratios))._asdict(),
        "others": sum(len(one["busy"]) for one in found),
        "p99_ms": p99,
    }


def alone(measure: Callable[..., dict[str, Any]], count: int) -> None:
    """Prints what one measurement finds.

    Args:
        measure: Measures, given places, a plan and a count.
        count: The count, unless the command line says another.
    """
    count = int(sys.argv[1]) if len(sys.argv) > 1 else count
    with Places() as places:
        for row in measure(places, Plan.short(), count=count)["rows"]:
            print(row)


if __name__ == "__main__":
    alone(measure, RECIPIENTS)
