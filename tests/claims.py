"""What a test process may call its own on a server it shares: a Redis database, database names.

A foreign server is never flushed. A numbered Redis database is taken only while it is empty, marked
with this process's claim, and emptied on release; one whose owner died is taken over. Test
databases on PostgreSQL carry the run's start in their name, so that those of a killed run can be
told from those in use.
"""

from __future__ import annotations

import os
import re
import socket
import time
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

CLAIM_KEY = "hermes-fleet-tests:claim"
DATABASE_PREFIX = "test_fleet_"
STALE_AFTER_S = 3 * 3600
"""Longer than any run lasts: a shorter time would drop the databases of one that still goes."""


def claim_redis_database(url: str) -> str | None:
    """The URL of an empty numbered database that is now ours, or None if there is none.

    A number in ``url`` is tried first, then the highest numbers; 0 only if the URL names it.
    """
    client = redis.Redis.from_url(_with_database(url, 0), decode_responses=True)
    try:
        count = _database_count(client)
    finally:
        client.close()
    named = urlsplit(url).path.strip("/")
    preferred = [int(named)] if named.isdigit() else []
    for number in dict.fromkeys([*preferred, *range(count - 1, 0, -1)]):
        candidate = _with_database(url, number)
        if _claim(candidate):
            return candidate
    return None


def release_redis_database(url: str) -> None:
    """Empty a claimed database, if the claim is still this process's."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if client.get(CLAIM_KEY) == _own_claim():
            client.flushdb()


def empty_redis_database(url: str) -> None:
    """Delete every key of a claimed database but the claim itself."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if client.get(CLAIM_KEY) != _own_claim():
            raise RuntimeError("this Redis database is not claimed by this process")
        keys = [key for key in client.scan_iter(count=1000) if key != CLAIM_KEY]
        if keys:
            client.delete(*keys)


def _claim(url: str) -> bool:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if client.set(CLAIM_KEY, _own_claim(), nx=True):
            if client.dbsize() == 1:
                return True
            client.delete(CLAIM_KEY)
            return False
        return _take_over(client)


def _take_over(client: redis.Redis) -> bool:
    """Take a database whose owner is gone; two processes that try at once cannot both win."""
    with client.pipeline() as transaction:
        try:
            transaction.watch(CLAIM_KEY)  # type: ignore[no-untyped-call]  # redis-py has no type for it
            if not _is_dead(str(transaction.get(CLAIM_KEY) or "")):
                return False
            transaction.multi()
            transaction.flushdb()
            transaction.set(CLAIM_KEY, _own_claim())
            transaction.execute()
        except redis.WatchError:
            return False
        return True


def _own_claim() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_dead(claim: str) -> bool:
    host, _, pid = claim.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _database_count(client: redis.Redis) -> int:
    try:
        return int(str(client.config_get("databases")["databases"]))
    except (redis.RedisError, KeyError):  # hosted servers forbid CONFIG
        return 16


def _with_database(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def new_database_name(label: str) -> str:
    """A name no other run uses: the start in seconds, this process, a label."""
    return f"{DATABASE_PREFIX}{int(time.time()):x}_{os.getpid()}_{label}"


def create_database(server_url: str, name: str) -> str:
    """Make an empty database and return its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def drop_database(server_url: str, name: str) -> None:
    """Drop a database, whoever is still connected to it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        connection.execute(drop.format(sql.Identifier(name)))


def stale_databases(names: list[str], now_s: float) -> list[str]:
    """Those of ``names`` that a run made more than ``STALE_AFTER_S`` ago."""
    pattern = re.compile(rf"{DATABASE_PREFIX}([0-9a-f]{{8,9}})_\d+_")
    return [
        name
        for name in names
        if (match := pattern.match(name)) and now_s - int(match[1], 16) > STALE_AFTER_S
    ]


def drop_stale_databases(server_url: str) -> None:
    """Drop what killed runs left, if nobody is connected to it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database d WHERE NOT EXISTS"
            " (SELECT 1 FROM pg_stat_activity a WHERE a.datid = d.oid)"
        ).fetchall()
        for name in stale_databases([row[0] for row in rows], time.time()):
            drop = sql.SQL("DROP DATABASE IF EXISTS {}")
            # Two runs that start at once find the same leftovers; the slower one loses politely.
            try:
                connection.execute(drop.format(sql.Identifier(name)))
            except psycopg.Error:
                continue
