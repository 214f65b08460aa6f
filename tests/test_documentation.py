"""Every example of the documentation does what is said around it.

The sessions with ``>>>`` are for `make check`, and what is typed into a shell for tests/site.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from salmon.routing import Router, route
from salmon.testing import RouterConversation

from salmon_state import (
    MemoryStorage,
    SQLAlchemyStorage,
    StateStorage,
    close_all,
    configure,
    named_storage,
)
from tests.documentation import CHECKOUT, PAGES, blocks, files, write
from tests.end_to_end.smtp_sink import SMTPSink, wait_for
from tests.redis_services import RedisServer

# How many there are: whoever adds one adds it to the tests as well. The README's first is in every
# application of tests/end_to_end/test_generated_application.py.
PYTHON = {
    "README.md": 2,
    "docs/configuration.md": 4,
    "docs/outbox.md": 2,
    "docs/redis.md": 1,
    "docs/testing.md": 7,
}

# These are followed from top to bottom in tests/site; and the guide to writing a store shows the
# code of the example, which tests/examples/test_file_store.py compares.
ELSEWHERE = r"docs/(tutorial|how-to/.*|writing-a-store)\.md"


def run_pytest(directory: Path, *options: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.stdout + ended.stderr


@pytest.fixture
def state_store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/states.db"


def test_no_example_is_forgotten() -> None:
    found = {page: len(blocks(page)) for page in PAGES if not re.fullmatch(ELSEWHERE, page)}
    assert {page: count for page, count in found.items() if count} == PYTHON
    for page in PYTHON:
        for block in blocks(page):
            compile(block, page, "exec")


# ---------------------------------------------------------------- README


def test_the_row_and_the_state(state_store: SQLAlchemyStorage) -> None:
    subscribers = sa.Table("subscribers", sa.MetaData(), sa.Column("address", sa.Text))
    engine = sa.create_engine(f"sqlite:///{state_store._url.database}")
    subscribers.create(engine)

    def POSTING() -> None:  # noqa: N802 - as in Salmon
        """The next state."""

    POSTING.__module__ = "documented"
    names: dict[str, Any] = {"__name__": "documented", "route": route}
    exec(blocks("README.md")[1], {**names, "POSTING": POSTING, "subscribers": subscribers})
    state_store.set("documented", "anna@example.com", "CONFIRMING")
    RouterConversation("anna@example.com", "hello").deliver(
        "confirm@example.com", "anna@example.com", "hello", "yes"
    )
    assert state_store.get("documented", "anna@example.com") == "POSTING"
    with engine.connect() as connection:
        assert connection.execute(subscribers.select()).all() == [("anna@example.com",)]
    engine.dispose()


def test_what_there_is_to_install_and_to_make() -> None:
    console = "".join(blocks("README.md", "console"))
    project = (CHECKOUT / "pyproject.toml").read_text()
    extras = re.findall(r"\[(\w+)\]'", console)
    assert len(extras) == 4
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE)
    targets = re.findall(r"^\$ make (\w+)", console, flags=re.MULTILINE)
    assert targets == ["run", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(), flags=re.MULTILINE)


# ---------------------------------------------------------------- docs/testing.md

TESTING = "docs/testing.md"


@pytest.mark.parametrize("left_out", [(), ("tests/conftest.py",), ("pytest.ini",)])
def test_an_applications_tests(left_out: tuple[str, ...], tmp_path: Path) -> None:
    examples = files(TESTING)
    assert set(examples) == {
        *("app/handlers.py", "tests/test_subscribing.py", "tests/test_trouble.py"),
        *("pytest.ini", "tests/conftest.py"),
    }
    write(tmp_path, {name: text for name, text in examples.items() if name not in left_out})
    for _ in range(2):
        # Hypothesis's plugin would import all of it, which takes longer than these tests.
        output = run_pytest(tmp_path, "-W", "error", "-p", "no:hypothesispytest")
        assert "5 passed" in output, output


def test_a_stores_tests(tmp_path: Path) -> None:
    """Those of one method: the whole kit is run over our own stores, and written like this."""
    suites, longer, left_out = (block for block in blocks(TESTING) if "Suite" in block)
    text = f"{suites}\n\n{longer}\n\n{left_out}".replace("mine:///", "sqlite:///")
    write(tmp_path, {"test_mine.py": text})
    output = run_pytest(tmp_path, "-k", "TestMyStore and clear")
    assert " passed" in output, output
    assert not re.search("failed|error", output), output
    assert "TestMyStoreForLong" in run_pytest(tmp_path, "--collect-only", "-q")


# ---------------------------------------------------------------- docs/configuration.md

CONFIGURATION = "docs/configuration.md"


def test_stores_in_a_toml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tomllib", reason="it came with Python 3.11")
    write(tmp_path, files(CONFIGURATION))
    monkeypatch.chdir(tmp_path)
    exec(blocks(CONFIGURATION)[0], {})
    Path("run").mkdir()
    assert type(named_storage("archive")) is SQLAlchemyStorage
    close_all()


def test_stores_in_djangos_settings() -> None:
    django = pytest.importorskip("django.conf", reason="Django is not installed")
    pytest.importorskip("django.apps", reason="Django is not installed")
    settings, apps = blocks(CONFIGURATION)[1:3]
    names: dict[str, Any] = {}
    exec(settings, names)
    django.settings.configure(SALMON_STATES={**names["SALMON_STATES"], "main": "memory://"})
    exec(apps, names)
    names["MailConfig"]("mail", sys.modules[__name__]).ready()
    assert type(named_storage("bounces")) is MemoryStorage
    close_all()


def test_a_named_store_in_an_application(state_store: StateStorage) -> None:
    configure({"main": "memory://"})
    exec(blocks(CONFIGURATION)[3], {})
    assert Router.STATE_STORE is named_storage("main")
    assert vars(Router)["deliver"]
    close_all()


# ---------------------------------------------------------------- docs/outbox.md


def test_the_outbox() -> None:
    record, dispatch = blocks("docs/outbox.md")
    with SMTPSink() as sink:
        names: dict[str, Any] = {}
        exec(record.replace("25))", f"{sink.port}))"), names)
        exec(dispatch.replace("    pass", "    done()"), {**names, "done": partial(wait, sink)})
    [(sender, recipient, message)] = sink.mails
    assert (sender, recipient) == ("<list@example.com>", "<anna@example.com>")
    assert b"Just reply." in message
    assert names["store"].get("app.handlers", "anna@example.com") == "ASKED"


def wait(sink: SMTPSink) -> None:
    wait_for(lambda: sink.mails, "the mail")


# ---------------------------------------------------------------- docs/redis.md


def test_a_store_in_redis(redis_server: RedisServer) -> None:
    (text,) = blocks("docs/redis.md")
    for ours, theirs in (
        ("redis://localhost/0", redis_server.fresh_database()),
        ("wait_replicas=1", "wait_replicas=0"),  # it has none
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    with redis_server.client() as client:
        names: dict[str, Any] = {"my_client": client}
        exec(text, names)
        names["store"].ping()
        names["store"].close()
