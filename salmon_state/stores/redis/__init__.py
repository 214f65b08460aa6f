"""RedisStorage: states in Redis."""

from __future__ import annotations

try:
    import redis  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "redis":  # something that redis-py itself needs
        raise
    raise ModuleNotFoundError(
        "RedisStorage needs redis-py: pip install 'redis[hiredis]'", name="redis"
    ) from error

from salmon_state.stores.redis.store import RedisStorage

__all__ = ["RedisStorage"]
