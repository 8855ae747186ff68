"""Reading the environment: one function per type, and a bad value stops the start.

Secrets may also come from a file named by ``NAME_FILE`` (Docker and systemd
credentials); one that is given nowhere can be made once under FLEET_HOME.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


def envstr(name: str, default: str = "", *, pattern: str = "") -> str:
    """The text of a variable, stripped.

    Errors: ImproperlyConfigured when it does not match ``pattern`` in full.
    """
    value = os.environ.get(name, "").strip() or default
    if pattern and re.fullmatch(pattern, value) is None:
        raise ImproperlyConfigured(f"{name}: {value!r} does not match {pattern}")
    return value


def envbool(name: str, *, default: bool) -> bool:
    """A switch: 1, true, yes, on or 0, false, no, off.

    Errors: ImproperlyConfigured for anything else; "enabled" never means False here.
    """
    value = os.environ.get(name, "").strip().lower()
    if not value:
        return default
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ImproperlyConfigured(f"{name}: use true or false, not {value!r}")


def envint(name: str, default: int, *, minimum: int, maximum: int) -> int:
    """A whole number within its bounds, ends included.

    Errors: ImproperlyConfigured when it is none or lies outside.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        number = int(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {value!r} is not a whole number") from error
    if not minimum <= number <= maximum:
        raise ImproperlyConfigured(f"{name}: use a number from {minimum} to {maximum}")
    return number


def envlist(name: str, default: str = "") -> list[str]:
    """Comma-separated parts, stripped, empty ones dropped."""
    parts = (os.environ.get(name, "").strip() or default).split(",")
    return [part.strip() for part in parts if part.strip()]


def envnetworks(name: str, default: str = "", *, names: tuple[str, ...] = ()) -> list[str]:
    """Comma-separated addresses or networks; ``names`` are words that may stand beside them.

    Errors: ImproperlyConfigured for anything else.
    """
    entries = envlist(name, default)
    for entry in entries:
        if entry in names:
            continue
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError as error:
            raise ImproperlyConfigured(f"{name}: {entry!r} is no address or network") from error
    return entries


def envfile(name: str) -> str:
    """The path of a file that can be read; "" when the variable is not set.

    Errors: ImproperlyConfigured when it cannot be read.
    """
    path = os.environ.get(name, "").strip()
    if path:
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}: {path}: {error.strerror}") from error
    return path


def envhosts(name: str) -> list[str]:
    """Comma-separated names of hosts, ``*.suffix``, addresses or networks.

    Errors: ImproperlyConfigured for anything else: a port or a scheme would never match.
    """
    entries = envlist(name)
    for entry in entries:
        if re.fullmatch(r"(\*\.)?[A-Za-z0-9_][A-Za-z0-9_.-]*", entry) and "/" not in entry:
            continue
        try:
            ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError as error:
            raise ImproperlyConfigured(
                f"{name}: {entry!r} is no name of a host, *.suffix, address or network"
            ) from error
    return entries


def envshare(name: str, default: float) -> float:
    """A share of one: 0, 0.25, 1.

    Errors: ImproperlyConfigured for anything else.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    if re.fullmatch(r"[01]|[01]?\.\d{1,9}", value) is None or float(value) > 1:
        raise ImproperlyConfigured(f"{name}: {value!r} is no number from 0 to 1")
    return float(value)


def envheaders(name: str, *, prefix: str) -> dict[str, str]:
    """Comma-separated ``header=VARIABLE``: names only, each variable begins with ``prefix``.

    Errors: ImproperlyConfigured for anything else; a value is not quoted, it may be the secret.
    """
    pairs: dict[str, str] = {}
    for entry in envlist(name):
        header, _equals, variable = (part.strip() for part in entry.partition("="))
        is_header = re.fullmatch(r"[A-Za-z0-9-]{1,80}", header) is not None
        if not is_header or re.fullmatch(rf"{prefix}[A-Z0-9_]{{1,64}}", variable) is None:
            raise ImproperlyConfigured(f"{name}: write header={prefix}NAME, values in {prefix}NAME")
        pairs[header.lower()] = variable
    return pairs


def envsecret(name: str) -> str:
    """A secret from ``NAME`` or from the file that ``NAME_FILE`` names; "" when neither is set.

    Errors: ImproperlyConfigured when both are set, or the file cannot be read or is empty.
    """
    value, path = os.environ.get(name, "").strip(), os.environ.get(f"{name}_FILE", "").strip()
    if value and path:
        raise ImproperlyConfigured(f"Set {name} or {name}_FILE, not both")
    if not path:
        return value
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ImproperlyConfigured(f"{name}_FILE: {path}: {error.strerror}") from error
    if not value:
        raise ImproperlyConfigured(f"{name}_FILE: {path} is empty")
    return value


def envsecret_made(name: str, path: Path, *, random_bytes: int = 48) -> str:
    """A secret from the environment, else from ``path``, which is made on first use (0600).

    Errors: ImproperlyConfigured when the file can be neither read nor made.
    """
    return envsecret(name) or made_once(path, random_bytes=random_bytes)


def made_once(path: Path, *, random_bytes: int) -> str:
    """The hex secret kept in a file of mode 0600; made when absent.

    Two processes may start at once: each writes its own temporary file and links
    it into place, the loser of the link reads the winner's.
    """
    try:
        if not path.exists():
            make_private_dir(path.parent)
            part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(random_bytes) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            try:
                path.hardlink_to(part)
            except FileExistsError:
                pass
            finally:
                part.unlink()
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ImproperlyConfigured(f"{path}: {error.strerror}") from error


def make_private_dir(path: Path) -> None:
    """A folder of mode 0700, parents included; an existing one keeps its mode."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A database address taken apart; ``name`` is a path for SQLite."""

    engine: str
    name: str
    user: str = ""
    password: str = ""
    host: str = ""
    port: str = ""
    options: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.engine}, {self.host}/{self.name})"


def envdatabase(name: str, default: str) -> DatabaseUrl:
    """``postgres://user:password@host:port/name?option=value`` or ``sqlite:///path``.

    Shape: ``sqlite:///relative`` and ``sqlite:////absolute``, as SQLAlchemy writes them.
    Errors: ImproperlyConfigured for another scheme or a missing name; the address is not
    echoed, it may hold a password.
    """
    text = envsecret(name) or default
    try:
        parts = urlsplit(text)
        port = str(parts.port or "")
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: not an address") from error
    path = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in {"postgres", "postgresql", "sqlite"} or not path:
        raise ImproperlyConfigured(
            f"{name}: use postgres://user@host:port/name or sqlite:///path, nothing else"
        )
    if parts.scheme == "sqlite":
        return DatabaseUrl("sqlite", path)
    options = dict(parse_qsl(parts.query))
    return DatabaseUrl(
        "postgresql",
        path,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        host=unquote(options.pop("host", "") or parts.hostname or ""),
        port=port,
        options=options,
    )
