"""Asynchronous peers.

Their calls are awaited one after the other within a running loop, as in a handler of theirs; what
it takes to start and to leave the loop is not counted. One call at a time is what ours is measured
with, too: an asynchronous store's merit is that others run meanwhile.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage
from key_value.aio.stores.redis import RedisStore
from redis.asyncio import Redis
from salmon.routing import ROUTE_FIRST_STATE as START

from tests.redis_services import SECRET, RedisServer

Pairs = list[tuple[str, str, str]]


class _Asynchronous:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    async def set(self, module: str, sender: str, state: str) -> None:
        raise NotImplementedError

    def fill(self, pairs: Pairs) -> None:
        async def all_of_them() -> None:
            for first in range(0, len(pairs), 50):
                await asyncio.gather(*(self.set(*pair) for pair in pairs[first : first + 50]))

        self.loop.run_until_complete(all_of_them())


class Aiogram(_Asynchronous):
    """aiogram's finite state machine; its users have a number and no address."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._client: Any = Redis(host="127.0.0.1", port=server.port, password=SECRET)
        self._storage = RedisStorage(self._client)

    async def get(self, module: str, sender: str) -> str:
        return await self._storage.get_state(_key(sender)) or START

    async def set(self, module: str, sender: str, state: str) -> None:
        await self._storage.set_state(_key(sender), None if state == START else state)

    def close(self) -> None:
        self.loop.run_until_complete(self._storage.close())
        self.loop.close()


def _key(sender: str) -> StorageKey:
    return StorageKey(bot_id=1, chat_id=1, user_id=zlib.crc32(sender.encode()))


class KeyValue(_Asynchronous):
    """py-key-value, whose values are dicts."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._client: Any = Redis(
            host="127.0.0.1", port=server.port, password=SECRET, decode_responses=True
        )
        self._store = RedisStore(client=self._client)

    async def get(self, module: str, sender: str) -> str:
        found = await self._store.get(sender, collection=module)
        return START if found is None else str(found["state"])

    async def set(self, module: str, sender: str, state: str) -> None:
        if state == START:
            await self._store.delete(sender, collection=module)
        else:
            await self._store.put(sender, {"state": state}, collection=module)

    def close(self) -> None:
        self.loop.run_until_complete(self._client.aclose())
        self.loop.close()
