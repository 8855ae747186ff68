"""The configuration an agent really runs with: defaults < enrollment < user < managed scope.

Follows the host's own rules (hermes-agent 0.19.0, ``hermes_cli/managed_scope.py`` and
``config.py``) so that what we read is what the agent obeys: leaf-wise merge, lists replaced
whole, ``HERMES_MANAGED_DIR`` that is set but no directory switches managed scope off, files
that cannot be read count as empty. Unlike the host it says so: every such file is a ``problem``.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from agent_client.contract.policy_keys import KEYS, TELEMETRY_KEYS, nest, value_fault
from agent_client.credential import credential_path
from agent_client.files import read_bytes, read_json, telemetry_dir, write_atomic

Source = Literal["managed", "user", "enroll", "default"]
DEFAULT_MANAGED_DIR: Final = Path("/etc/hermes")
CONFIG_FILE: Final = "config.yaml"
PSEUDONYM_KEY_BYTES: Final = 32
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024
"""The host's own files are some tens of kilobytes; more is a mistake we do not parse."""
MAX_NODES: Final = 100_000
"""Values of a file with its aliases written out; without aliases it has fewer than bytes."""

MAX_CONFIG_DEPTH: Final = 100
"""The host's own files have some five levels; Python's stack ends at some three hundred."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ENV_REF = re.compile(r"\$\{([^}]+)\}")
_FAIL_CLOSED: Final[Mapping[str, object]] = {"telemetry.allow_aggregate": False}
"""A gate whose value cannot be read is shut; every other malformed key gets its default."""
_UNREAD: Final = frozenset(
    f"{layer}_{fault}" for layer in ("user", "managed") for fault in ("unreadable", "malformed")
)
_FALSE_WORDS: Final = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the configuration that does not take effect; ``code`` is for programs.

    Codes: user_unreadable, user_malformed, managed_unreadable, managed_malformed,
    managed_dir_missing, managed_dir_relative, section_malformed, bad_value, credential_unreadable.
    """

    code: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Layers:
    """The files as they are, before the merge; ``managed_dir`` None means no managed scope."""

    home: Path
    managed_dir: Path | None
    user: dict[str, object]
    managed: dict[str, object]
    problems: tuple[Problem, ...]

    def effective(self) -> dict[str, object]:
        """User below managed, as the host merges them; without our defaults."""
        return deep_merge(self.user, self.managed)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The effective configuration of one home, with where each leaf comes from.

    ``values`` holds the host's other sections as found, and every ``telemetry.*`` key with a
    usable value. ``sources`` maps dotted leaves to managed, user, enroll or default.
    """

    home: Path
    managed_dir: Path | None
    values: dict[str, object]
    sources: dict[str, Source]
    problems: tuple[Problem, ...] = ()
    stored_install_id: str = ""
    console_url: str = ""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    def get(self, dotted: str, default: object = None) -> object:
        """The value of a dotted key; ``default`` when any part of the path is missing."""
        return lookup(self.values, dotted, default)

    @property
    def unread(self) -> str:
        """Which file could not be read, in a sentence; "" for none. Nothing may leave then.

        A file that would shut a gate must not be taken for an empty one: enrolling opens one, and
        each layer may shut what the other opens.
        """
        found = next((one for one in self.problems if one.code in _UNREAD), None)
        return (
            f"{found.subject} {found.detail}; it may say that nothing is to leave" if found else ""
        )

    def source(self, dotted: str) -> Source:
        """Where a leaf comes from; a parent has the strongest source among its leaves."""
        if dotted in self.sources:
            return self.sources[dotted]
        below = {s for key, s in self.sources.items() if key.startswith(dotted + ".")}
        order: tuple[Source, ...] = ("managed", "user", "enroll")
        return next((source for source in order if source in below), "default")


def load(
    home: Path | None = None, *, environ: Mapping[str, str] | None = None, expand: bool = True
) -> ClientConfig:
    """The effective configuration. Never raises for what is in, or wrong with, the files.

    Without ``expand`` it is fit to be shown: a ``${VAR}`` stays a name, its value is not read.
    """
    env = os.environ if environ is None else environ
    layers = read_layers(home, environ=env, expand=expand)
    problems = list(layers.problems)
    enrolled, console_url = _enrollment(layers.home, problems)
    merged = layers.effective()
    section = merged.get("telemetry")
    if section is not None and not isinstance(section, dict):
        detail = "the telemetry section is not a map; its defaults are used"
        problems.append(Problem("section_malformed", "telemetry", detail))
    values = dict(merged)
    values["telemetry"] = _telemetry(section, enrolled, problems)
    return ClientConfig(
        home=layers.home,
        managed_dir=layers.managed_dir,
        values=values,
        sources=_sources(values, layers, enrolled),
        problems=tuple(problems),
        stored_install_id=read_install_id(layers.home),
        console_url=console_url,
        environ=dict(env),
    )


def resolve_home(home: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The agent's home: the argument, else ``HERMES_HOME``, else ``~/.hermes``."""
    if home is not None:
        return home
    env = os.environ if environ is None else environ
    named = env.get("HERMES_HOME", "").strip()
    return Path(named) if named else Path.home() / ".hermes"


def managed_target(environ: Mapping[str, str] | None = None) -> Path | None:
    """Where managed scope belongs, whether or not it exists. None under pytest by default.

    The host ignores ``/etc/hermes`` under pytest; so do we, or a test run as root would
    pin the developer's machine.
    """
    env = os.environ if environ is None else environ
    override = env.get("HERMES_MANAGED_DIR", "").strip()
    if override:
        return Path(override)
    return None if "PYTEST_CURRENT_TEST" in env else DEFAULT_MANAGED_DIR


def managed_dir_of(environ: Mapping[str, str] | None = None) -> Path | None:
    """The managed scope the host obeys; None when there is none. No fall-back from an override."""
    target = managed_target(environ)
    try:
        return target if target is not None and target.is_dir() else None
    except OSError:
        return None


def read_layers(
    home: Path | None = None, *, environ: Mapping[str, str] | None = None, expand: bool = True
) -> Layers:
    """Both files as the host reads them, ``${VAR}`` expanded unless told not to. Never raises."""
    env = dict(os.environ if environ is None else environ)
    root = resolve_home(home, env)
    problems: list[Problem] = []
    managed_dir = managed_dir_of(env)
    override = env.get("HERMES_MANAGED_DIR", "").strip()
    if override and managed_dir is None:
        detail = "HERMES_MANAGED_DIR is set but is no directory: no managed scope is in force"
        problems.append(Problem("managed_dir_missing", override, detail))
    managed: dict[str, object] = {}
    if managed_dir is not None:
        managed = _read_yaml(managed_dir / CONFIG_FILE, "managed", problems)
        env.update(_managed_env(managed_dir / ".env"))
    user = _read_yaml(root / CONFIG_FILE, "user", problems)
    if not expand:
        return Layers(root, managed_dir, user, managed, tuple(problems))
    return Layers(root, managed_dir, _expanded(user, env), _expanded(managed, env), tuple(problems))


def deep_merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """``over`` on ``base``, leaf by leaf; an empty (null) section does not erase a map."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = deep_merge(below, value)
        elif not (isinstance(below, dict) and value is None):
            result[key] = value
    return result


def lookup(tree: Mapping[str, object], dotted: str, default: object = None) -> object:
    """The value at a dotted path of nested maps."""
    node: object = tree
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return node


# ------------------------------------------------------------------------------- install id


def install_id_path(home: Path) -> Path:
    """The file that keeps the install id; emptying or removing it rotates the id."""
    return telemetry_dir(home) / "install_id"


def read_install_id(home: Path) -> str:
    """The kept install id; "" when there is none or the file does not hold a UUID."""
    try:
        data = read_bytes(install_id_path(home), 200)
    except OSError:
        return ""
    return as_uuid((data or b"").decode("ascii", "replace"))


def keep_install_id(home: Path) -> str:
    """The install id in force, minted and kept on first use. Errors: OSError."""
    config = load(home)
    current = install_id_of(config)
    if current:
        return current
    return rotate_install_id(config.home)


def rotate_install_id(home: Path) -> str:
    """Mint a new install id and keep it. Errors: OSError."""
    import uuid  # it loads platform: 5 ms that every start of the agent would pay

    minted = str(uuid.uuid4())
    write_atomic(install_id_path(home), minted.encode("ascii") + b"\n")
    return minted


def keep_pseudonym_key(home: Path) -> bytes:
    """The key under which names become pseudonyms on this machine, made on first use. 32 bytes.

    It never leaves: who has not got it cannot try names out. Errors: OSError.
    """
    path = telemetry_dir(home) / "pseudonym_key"
    key = read_bytes(path, 64) or b""
    if len(key) != PSEUDONYM_KEY_BYTES:
        key = os.urandom(PSEUDONYM_KEY_BYTES)
        write_atomic(path, key)
    return key


def install_id_of(config: ClientConfig) -> str:
    """The id of a configuration: the key ``telemetry.install_id``, else the kept one, else ""."""
    configured = config.get("telemetry.install_id")
    return as_uuid(configured) or config.stored_install_id


def as_uuid(value: object) -> str:
    """A UUID in its canonical form; "" for anything else."""
    text = value.strip().lower() if isinstance(value, str) else ""
    return text if _UUID.fullmatch(text) else ""


# ---------------------------------------------------------------------------------- reading


def _read_yaml(path: Path, layer: str, problems: list[Problem]) -> dict[str, object]:
    try:
        data = read_bytes(path, MAX_CONFIG_BYTES)
    except OSError as error:
        detail = f"cannot be read ({error.strerror or error}); the agent ignores it"
        problems.append(Problem(f"{layer}_unreadable", str(path), detail))
        return {}
    if not data or not data.strip():
        return {}
    try:
        value = parse_yaml(data)
    except ValueError as error:
        detail = f"is not valid YAML ({error}); the agent ignores it"
        problems.append(Problem(f"{layer}_malformed", str(path), detail))
        return {}
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(Problem(f"{layer}_malformed", str(path), "is not a map; it is ignored"))
        return {}
    return value


def parse_yaml(data: bytes) -> object:
    """The value of a YAML text. Errors: ValueError naming the line, never quoting the text."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value: object = yaml.load(data.decode("utf-8"), Loader=loader)  # noqa: S506  # both are safe loaders
        size = _written_out(value, {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else "unreadable"
        raise ValueError(where) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(type(error).__name__) from error
    if size > max(MAX_NODES, len(data)):
        raise ValueError("its aliases stand for more than a file may hold")
    if _is_deep(value):
        raise ValueError("nested without end")
    return value


def _is_deep(value: object) -> bool:
    """Whether it nests further than we follow: an alias (``&a [*a]``) may even hold itself."""
    level = {id(value): value}
    for _ in range(MAX_CONFIG_DEPTH):
        level = {
            id(inner): inner
            for outer in level.values()
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        }
        if not level:
            return False
    return True


def _written_out(value: object, sizes: dict[int, int]) -> int:
    """How many nodes a value has when each alias is written out; a circle counts as too many.

    Whoever merges or lists a configuration walks it so: ten short lines can take for ever.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = 1 + MAX_CONFIG_BYTES  # until it is known: only a circle sees this
        inner = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_written_out(item, sizes) for item in inner)
    return sizes[id(value)]


def _managed_env(path: Path) -> dict[str, str]:
    try:
        lines = (read_bytes(path, MAX_CONFIG_BYTES) or b"").decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.strip().partition("=") for line in lines)
    return {
        name.strip(): value.strip().strip("\"'")
        for name, equals, value in pairs
        if equals and not name.startswith("#")
    }


def _expanded(tree: dict[str, object], env: Mapping[str, str]) -> dict[str, object]:
    return {key: _expand(value, env) for key, value in tree.items()}


def _expand(value: object, env: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return _ENV_REF.sub(lambda match: env.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: _expand(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, env) for item in value]
    return value


def _enrollment(home: Path, problems: list[Problem]) -> tuple[dict[str, object], str]:
    """The layer that enrollment adds: push to this console, unless the files say otherwise."""
    path = credential_path(home)
    data = read_json(path)
    url = data.get("console_url") if data is not None else None
    if isinstance(url, str) and url:
        console = {"enabled": True, "endpoint": url}
        return {"export": {"console": console}}, url
    try:
        is_there = path.exists()
    except OSError:
        is_there = True
    if is_there:
        detail = "cannot be read; this install counts as not enrolled"
        problems.append(Problem("credential_unreadable", str(path), detail))
    return {}, ""


# ------------------------------------------------------------------------------- the merge


def _telemetry(
    section: object, enrolled: dict[str, object], problems: list[Problem]
) -> dict[str, object]:
    """The telemetry section with a usable value at every key of the contract."""
    defaults = nest({entry.key: entry.default for entry in TELEMETRY_KEYS})["telemetry"]
    base = copy.deepcopy(defaults) if isinstance(defaults, dict) else {}
    found = deep_merge(enrolled, section) if isinstance(section, dict) else dict(enrolled)
    merged = deep_merge(base, found)
    for key, entry in KEYS.items():
        path = key.removeprefix("telemetry.")
        value = lookup(merged, path, entry.default)
        usable = usable_value(key, value)
        if usable is not value and usable != value:
            problems.append(Problem("bad_value", key, f"{value_fault(key, value)} It is ignored."))
        _put(merged, path, usable)
    return merged


def usable_value(key: str, value: object) -> object:
    """A telemetry key's value when it fits its type; else what stands in for it.

    Words for false count as false: somebody who wrote ``local: "off"`` meant it.
    """
    entry = KEYS[key]
    if value is None or (type(value) is type(entry.default) and value == entry.default):
        return entry.default  # the type too: 1 is no true, not for a gate
    if entry.type == "bool" and str(value).strip().lower() in _FALSE_WORDS:
        return False
    return value if not value_fault(key, value) else _FAIL_CLOSED.get(key, entry.default)


def _put(tree: dict[str, object], path: str, value: object) -> None:
    *parents, leaf = path.split(".")
    node = tree
    for part in parents:
        child = node.get(part)
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[leaf] = value


def leaf_keys(tree: Mapping[str, object], prefix: str = "") -> list[str]:
    """Dotted leaves of nested maps, as the host counts them; an empty map is a leaf."""
    keys: list[str] = []
    for name, value in tree.items():
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, dict) and value and dotted not in KEYS:
            keys.extend(leaf_keys(value, dotted))
        else:
            keys.append(dotted)
    return keys


def _sources(
    values: dict[str, object], layers: Layers, enrolled: dict[str, object]
) -> dict[str, Source]:
    named: tuple[tuple[Source, Mapping[str, object]], ...] = (
        ("managed", layers.managed),
        ("user", layers.user),
        ("enroll", {"telemetry": enrolled}),
    )
    missing = object()
    return {
        key: next(
            (name for name, tree in named if lookup(tree, key, missing) is not missing), "default"
        )
        for key in leaf_keys(values)
    }
