"""S3-compatible storage through obstore: files go up whole, in parts where they are large.

Keys are read from the environment when they are needed, under names that begin with FLEET_S3_, and
are never stored, shown or logged. An endpoint that is not AWS's own has its host in FLEET_S3_HOSTS.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO, Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from fleet import env
from telemetry.exports.destinations import PIECE_BYTES, own_folder
from telemetry.exports.faults import ExportFault, of_disk
from telemetry.models import ExportDestination

ENV_PREFIX: Final = "FLEET_S3_"
RESERVED: Final = frozenset({"FLEET_S3_HOSTS"})
MULTIPART_BYTES: Final = 8 * 1024**2
TIMEOUT: Final = timedelta(seconds=30)
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_ENV_NAME: Final = re.compile(r"FLEET_S3_[A-Z0-9_]{1,60}", re.ASCII)
REGION: Final = re.compile(r"[a-z0-9-]{0,40}", re.ASCII)


def endpoint_fault(endpoint: str) -> str:
    """What is wrong with an endpoint; "" when it may be used.

    FLEET_S3_HOSTS holds ``host`` or ``host:port`` for https, and ``http://host:port`` for a store
    that has no TLS. Nothing but scheme, host and port may stand in an endpoint.
    """
    if not endpoint:
        return ""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        return _("The endpoint is not an address.")
    host = parts.hostname or ""
    if parts.scheme not in {"https", "http"} or not host:
        return _("The endpoint is not an http or https address.")
    if parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment:
        return _("Only scheme, host and port may stand in an endpoint.")
    names = {host, f"{host}:{port}"} if port else {host}
    listed = {entry.lower().rstrip("/") for entry in settings.FLEET_S3_HOSTS}
    if parts.scheme == "http":
        if {f"http://{name}" for name in names} & listed:
            return ""
        return _("An endpoint without TLS stands in FLEET_S3_HOSTS as http://host:port.")
    if {*names, *(f"https://{name}" for name in names)} & listed:
        return ""
    return _("The endpoint's host is not in FLEET_S3_HOSTS.")


def is_key_name(name: str) -> bool:
    """Whether a key may be read from the variable of this name."""
    is_ours = _ENV_NAME.fullmatch(name) is not None and name not in RESERVED
    return is_ours and not name.endswith("_FILE")


def secret_of(name: str) -> str:
    """The value of an environment variable or of the file it names. Errors: ExportFault."""
    if not is_key_name(name):
        raise ExportFault(
            _("Keys come from environment variables whose names begin with %s.") % ENV_PREFIX,
            is_final=True,
        )
    try:
        value = env.envsecret(name)
    except Exception as error:  # noqa: BLE001 -- whatever it is, its text may hold a path only
        raise ExportFault(
            _("The file that %(name)s_FILE names cannot be read (%(kind)s).")
            % {"name": name, "kind": type(error).__name__}
        ) from None
    if not value:
        raise ExportFault(_("The worker's environment has no %s.") % name)
    return value


def _client(destination: ExportDestination) -> Any:  # noqa: ANN401 -- obstore carries no types here
    from obstore.store import S3Store

    fault = endpoint_fault(destination.endpoint)
    if not fault and not BUCKET.fullmatch(destination.bucket):
        fault = _("The bucket's name is not a valid one.")
    if not fault and not REGION.fullmatch(destination.region):
        fault = _("The region's name is not a valid one.")
    if fault:
        raise ExportFault(fault, is_final=True)
    more: dict[str, Any] = {"endpoint": destination.endpoint} if destination.endpoint else {}
    return S3Store(
        destination.bucket,
        region=destination.region or "us-east-1",
        access_key_id=secret_of(destination.key_id_env),
        secret_access_key=secret_of(destination.secret_env),
        virtual_hosted_style_request=not destination.endpoint,
        client_options={
            "timeout": TIMEOUT,
            "connect_timeout": timedelta(seconds=5),
            "allow_http": destination.endpoint.startswith("http://"),
        },
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=20),
            "backoff": {
                "base": 2,
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
            },
        },
        **more,
    )


@contextmanager
def _told() -> Iterator[None]:
    """What the store answers, in words; its own text may quote keys and requests."""
    from obstore import exceptions as s3

    try:
        yield
    except (s3.NotFoundError, FileNotFoundError):  # it raises either
        raise ExportFault(_("The object store has no such bucket or object.")) from None
    except (s3.BaseError, PermissionError) as error:
        raise ExportFault(_words_of(str(error))) from None


_REASONS: Final[tuple[tuple[str, Callable[[], str]], ...]] = (
    ("SignatureDoesNotMatch", lambda: _("The object store refused the secret.")),
    ("InvalidAccessKeyId", lambda: _("The object store does not know the key id.")),
    ("AccessDenied", lambda: _("The object store refused the key: check its rights.")),
    ("403 ", lambda: _("The object store refused the key: check its rights.")),
    ("NoSuchBucket", lambda: _("The object store has no such bucket.")),
    ("404 ", lambda: _("The object store has no such bucket or object.")),
    ("InsufficientStorage", lambda: _("The object store is full.")),
    ("507 ", lambda: _("The object store is full.")),
    ("certificate", lambda: _("The object store's TLS certificate is not trusted.")),
    ("dns", lambda: _("The object store's host name is not known.")),
    ("timed out", lambda: _("The object store does not answer in time.")),
)


def _words_of(text: str) -> str:
    lower = text.partition("Debug source")[0].lower()
    for mark, words in _REASONS:
        if mark.lower() in lower:
            return words()
    return _("The object store cannot be reached or failed. The export tries again by itself.")


class S3Place:
    """A job's objects, under ``prefix/export-…/``."""

    is_own = False

    def __init__(self, destination: ExportDestination, name: str) -> None:
        self.where = _("The object store")
        self._store = _client(destination)
        prefix = destination.prefix.strip("/")
        self._prefix = f"{prefix}/{name}" if prefix else name

    def create(self, name: str) -> _S3File:
        """A new object, its key with a random part.

        A worker that was thought dead and still sends can never write over what another has
        written since.
        """
        stem, dot, ending = name.partition(".")
        is_fixed = stem == "manifest"
        key = name if is_fixed else f"{stem}-{secrets.token_hex(3)}{dot}{ending}"
        return _S3File(self._store, self._prefix, key)

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes, streamed; the object is asked for at once, so that a fault is told."""
        import obstore

        with _told():
            found = self._ranged(name, start, end) if start else None
            skip = 0 if found else start
            found = found or obstore.get(self._store, self._key(name))
        return _stream(found, skip, end - start)

    def _ranged(self, name: str, start: int, end: int) -> Any:  # noqa: ANN401 -- obstore's own
        """The object from a byte on; None of a store that answers a range with the whole."""
        import obstore
        from obstore.exceptions import GenericError

        try:
            return obstore.get(self._store, self._key(name), options={"range": (start, end)})
        except GenericError as error:
            if "non-partial" in str(error):
                return None
            raise

    def read_all(self, name: str) -> bytes:
        """A small object."""
        import obstore

        with _told():
            return bytes(obstore.get(self._store, self._key(name)).bytes())

    def names(self) -> list[str]:
        """Every object of this job."""
        import obstore

        with _told():
            return [
                str(meta["path"]).rpartition("/")[2]
                for batch in obstore.list(self._store, prefix=self._prefix + "/")
                for meta in batch
            ]

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects, one by one: not every store knows how to remove many."""
        import obstore
        from obstore.exceptions import NotFoundError

        for name in names:
            with _told(), suppress(NotFoundError, FileNotFoundError):
                obstore.delete(self._store, self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"


def _stream(found: Any, skip: int, left: int) -> Iterator[bytes]:  # noqa: ANN401 -- obstore's own
    """``left`` bytes after the first ``skip``, in pieces."""
    with _told():
        for chunk in found.stream(min_chunk_size=PIECE_BYTES):
            data = bytes(chunk)
            if skip >= len(data):
                skip -= len(data)
                continue
            data, skip = data[skip : skip + left], 0
            left -= len(data)
            yield data
            if left <= 0:
                return


class _S3File:
    """An object: put together in a private file here, sent up when it is whole."""

    def __init__(self, store: Any, prefix: str, name: str) -> None:  # noqa: ANN401 -- obstore's own
        self.name = name
        self._store, self._key = store, f"{prefix}/{name}"
        self._where = _("The console's own disk")
        try:
            own_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            # Unlinked at once: a process that dies leaves nothing behind.
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=own_folder())  # noqa: SIM115 -- closed by abort
        except OSError as error:
            raise of_disk(error, self._where) from None

    def write(self, data: bytes) -> None:
        """Append here."""
        try:
            self._file.write(data)
        except OSError as error:
            raise of_disk(error, self._where) from None

    def complete(self) -> None:
        """Send it up; a store keeps an object whole or not at all."""
        import obstore

        try:
            self._file.flush()
            size_bytes = os.fstat(self._file.fileno()).st_size
            self._file.seek(0)
        except OSError as error:
            raise of_disk(error, self._where) from None
        with _told():
            obstore.put(
                self._store,
                self._key,
                self._file,
                use_multipart=size_bytes > MULTIPART_BYTES,
                chunk_size=MULTIPART_BYTES,
                max_concurrency=2,
            )

    def publish(self) -> None:
        """It has its name."""

    def abort(self) -> None:
        """Give the disk back."""
        with suppress(OSError):
            self._file.close()
