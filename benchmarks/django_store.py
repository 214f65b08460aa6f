"""A store on Django's ORM, as a user of Django would write it."""

# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"

from __future__ import annotations

import itertools
from typing import Any

import django
import pymysql
import sqlalchemy as sa
from django.conf import settings
from django.db import connections, models
from salmon.routing import ROUTE_FIRST_STATE, StateStorage

Pairs = list[tuple[str, str, str]]

pymysql.install_as_MySQLdb()
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

_numbers = itertools.count(1)
_ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}


class Conversation(models.Model):
    """One conversation."""

    module = models.CharField(max_length=200)
    sender = models.CharField(max_length=200)
    state = models.CharField(max_length=100)

    class Meta:
        app_label = "benchmarks"
        constraints = (models.UniqueConstraint(fields=["sender", "module"], name="conversation"),)


class DjangoStorage(StateStorage):
    """A query for each call, on a connection that Django keeps; durable as ours."""

    def __init__(self, url: str) -> None:
        self._alias = f"states{next(_numbers)}"
        connections.databases[self._alias] = connections.databases["default"] | _database(url)
        with connections[self._alias].schema_editor() as editor:
            editor.create_model(Conversation)
        self._all = Conversation.objects.using(self._alias)

    def get(self, key: str, sender: str) -> str:
        found = self._all.filter(sender=sender, module=key).values_list("state", flat=True).first()
        return found or ROUTE_FIRST_STATE

    def set(self, key: str, sender: str, state: str) -> None:
        if state == ROUTE_FIRST_STATE:
            self._all.filter(sender=sender, module=key).delete()
        else:
            self._all.update_or_create(sender=sender, module=key, defaults={"state": state})

    def clear(self) -> None:
        self._all.all().delete()

    def fill(self, pairs: Pairs) -> None:
        self._all.bulk_create(
            [Conversation(module=m, sender=sender, state=state) for m, sender, state in pairs]
        )

    def close(self) -> None:
        connections[self._alias].close()


def _database(url: str) -> dict[str, Any]:
    parts = sa.make_url(url)
    kind = parts.get_backend_name()
    found: dict[str, Any] = {
        "ENGINE": f"django.db.backends.{_ENGINES[kind]}",
        "NAME": parts.database,
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.host or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": {},
        "CONN_MAX_AGE": None,
    }
    if kind == "sqlite":
        found["OPTIONS"] = {
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL",
            "transaction_mode": "IMMEDIATE",
        }
    return found
