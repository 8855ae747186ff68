"""Finds the values in the data of a Kubernetes Secret written as YAML.

The names there are free, so that no list of names helps: everything under `data` and `stringData`
of a document of kind Secret goes. Source: the Kubernetes API reference, core/v1 Secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_KIND = re.compile(rb"^\s*[\"']?kind[\"']?\s*:\s*[\"']?[Ss]ecret[\"']?\s*$")
_DATA = re.compile(rb"^\s*(?:data|stringData)\s*:\s*$")
_ENTRY = re.compile(rb"^\s*[\"']?[\w./-]{1,253}[\"']?:\s{0,8}[\"']?([^\s\"'#\[][^\"'\r\n]*)")


def find_secret_data(data: bytes) -> Iterable[tuple[int, int, str]]:
    """The spans of the values, as start, end and replacement. One pass over the lines."""
    lines = data.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    first = 0
    for at in range(len(lines) + 1):
        if at == len(lines) or lines[at].startswith(b"---"):
            if any(_KIND.match(line) for line in lines[first:at]):
                yield from _document(lines[first:at], starts[first:at])
            first = at + 1


def _document(lines: list[bytes], starts: list[int]) -> Iterable[tuple[int, int, str]]:
    depth: int | None = None
    for line, start in zip(lines, starts, strict=True):
        indent = len(line) - len(line.lstrip())
        if depth is not None and line.strip() and indent <= depth:
            depth = None
        if depth is None:
            depth = indent if _DATA.match(line) else None
            continue
        entry = _ENTRY.match(line)
        if entry and not entry.group(1).startswith((b"[REDACTED:", b"${", b"{{", b"<")):
            value = entry.group(1).rstrip()
            yield (
                start + entry.start(1),
                start + entry.start(1) + len(value),
                "[REDACTED:k8s-secret]",
            )
