"""Sealed streams and whole files: what was changed is refused, what was cut off leaves nothing."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.ops.files import OpsError, part_name, remove_dead_parts, whole_file
from fleet.ops.sealed import CHUNK, HEAD, TAG, SealingWriter, read_passphrase, unseal

PASSPHRASE = b"correct horse battery"


def sealed(data: bytes, step: int = 10_000) -> bytes:
    out = io.BytesIO()
    writer = SealingWriter(out, PASSPHRASE)
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    writer.finish()
    return out.getvalue()


def opened(data: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    out = io.BytesIO()
    unseal(io.BytesIO(data), out, passphrase)
    return out.getvalue()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_sealed_comes_back(size: int) -> None:
    data = os.urandom(size)
    whole = sealed(data)
    assert opened(whole) == data
    assert size < 100 or data[:50] not in whole


def test_another_passphrase_opens_nothing() -> None:
    with pytest.raises(OpsError, match="passphrase"):
        opened(sealed(b"x" * 100), b"another passphrase")


@pytest.mark.parametrize("what", ["flip", "cut", "cut chunk", "swap", "repeat", "more", "head"])
def test_any_change_is_refused(what: str) -> None:
    whole, step = sealed(os.urandom(3 * CHUNK)), CHUNK + TAG
    chunks = [whole[HEAD + at : HEAD + at + step] for at in range(0, len(whole) - HEAD, step)]
    changed = {
        "flip": whole[: HEAD + 5] + bytes([whole[HEAD + 5] ^ 1]) + whole[HEAD + 6 :],
        "cut": whole[:-1],
        "cut chunk": whole[:HEAD] + b"".join(chunks[:-1]),
        "swap": whole[:HEAD] + chunks[1] + chunks[0] + chunks[2],
        "repeat": whole[:HEAD] + chunks[0] + chunks[0] + b"".join(chunks[1:]),
        "more": whole + b"x",
        "head": whole[: HEAD - 1] + bytes([whole[HEAD - 1] ^ 1]) + whole[HEAD:],
    }[what]
    with pytest.raises(OpsError):
        opened(changed)


def test_a_forged_cost_is_refused_before_any_memory_is_used() -> None:
    whole = bytearray(sealed(b"x"))
    whole[6] = 60
    with pytest.raises(OpsError, match="no sealed backup"):
        opened(bytes(whole))


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text("short\n")
    with pytest.raises(OpsError, match="12 characters"):
        read_passphrase(str(path))
    with pytest.raises(OpsError, match="No such file"):
        read_passphrase(str(tmp_path / "none"))


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    target = tmp_path / "b.zip"
    target.write_text("the old one")
    with pytest.raises(OpsError, match="is full"):
        _fill(target)
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]
    assert target.read_text() == "the old one"


def _fill(target: Path) -> None:
    with whole_file(target) as out:
        out.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    mine = part_name(tmp_path / "b.zip")
    mine.touch()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    theirs = tmp_path / f".b.zip.part-{gone.pid}-01234567"
    theirs.touch()
    (tmp_path / ".b.zip.part-x").touch()
    assert remove_dead_parts(tmp_path) == 1
    assert not theirs.exists()
    assert mine.exists()
