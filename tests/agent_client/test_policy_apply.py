from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.policy_doc import Bundle
from agent_client.contract.policy_keys import nest
from agent_client.policy import apply
from agent_client.policy.apply import ApplyError, apply_bundle, plan_apply, render
from agent_client.policy.state import Ownership, load_ownership

INSTALL = "6d7a3c1e-7d0f-4a55-8f0a-0d6a1a1f9b21"


def bundle(pins: dict[str, object], *, delete: tuple[str, ...] = (), version: int = 1) -> Bundle:
    meta: dict[str, dict[str, object]] = {key: {"layer": "fleet"} for key in pins}
    return Bundle("fleet", version, nest(pins), meta=meta, delete=delete)


def claim(home: str = "/h", install_id: str = INSTALL) -> Ownership:
    return Ownership(fleet_id="fleet", install_id=install_id, home=home)


def read(folder: Path) -> object:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_pins_are_written_block_style_quoted_and_world_readable(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    apply_bundle(folder, bundle({"model.default": "a: b", "plugins.enabled": ["x", "no"]}), claim())
    text = (folder / "config.yaml").read_text()
    assert '"default": "a: b"' in text
    assert '- "no"' in text
    assert "{" not in text
    assert (folder / "config.yaml").stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o777 == 0o755
    assert read(folder) == {"model": {"default": "a: b"}, "plugins": {"enabled": ["x", "no"]}}


def test_modes_hold_under_a_tight_umask_and_in_a_closed_directory(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        apply_bundle(folder, bundle({"a": 1}), claim())
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {0o644}


def test_foreign_keys_are_kept_and_never_removed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# theirs\nmodel: {provider: p}\nother: [1, 2]\n")
    apply_bundle(tmp_path, bundle({"model.default": "x"}), claim())
    apply_bundle(tmp_path, bundle({}, delete=("model.default", "other", "model")), claim())
    assert read(tmp_path) == {"model": {"provider": "p"}, "other": [1, 2]}
    assert "# theirs" in (tmp_path / "config.yaml.before-fleet").read_text()


def test_a_foreign_value_in_a_pins_place_stays_and_is_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: bare\nx: 1\n")
    done = apply_bundle(tmp_path, bundle({"model.default": "y", "x": 2, "z": 3}), claim())
    assert read(tmp_path) == {"model": "bare", "x": 1, "z": 3}
    assert set(done.plan.conflicts) == {("model", "default"), ("x",)}


def test_a_foreign_key_with_the_same_value_is_in_force_but_not_ours(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("x: 1\n")
    apply_bundle(tmp_path, bundle({"x": 1}), claim())
    apply_bundle(tmp_path, bundle({}, delete=("x",)), claim())
    assert read(tmp_path) == {"x": 1}


def test_omission_never_deletes_and_delete_does(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"a.b": 1, "a.c": 2}), claim())
    apply_bundle(tmp_path, bundle({"a.c": 2}, version=2), claim())
    assert read(tmp_path) == {"a": {"b": 1, "c": 2}}
    apply_bundle(tmp_path, bundle({"a.c": 2}, delete=("a.b",), version=3), claim())
    assert read(tmp_path) == {"a": {"c": 2}}


def test_removing_the_last_key_leaves_no_empty_map(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"a.b.c": 1}), claim())
    apply_bundle(tmp_path, bundle({}, delete=("a.b.c",)), claim())
    assert read(tmp_path) in (None, {})


def test_deleting_a_parent_removes_only_our_leaves_below_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: {theirs: 1}\n")
    apply_bundle(tmp_path, bundle({"a.b": 1, "a.c": {"d": 2}}), claim())
    apply_bundle(tmp_path, bundle({}, delete=("a",)), claim())
    assert read(tmp_path) == {"a": {"theirs": 1}}


def test_a_key_of_ours_that_was_edited_is_put_right(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"a": "pinned"}), claim())
    (tmp_path / "config.yaml").write_text('"a": "edited"\n')
    done = apply_bundle(tmp_path, bundle({"a": "pinned"}), claim())
    assert (done.changed, read(tmp_path)) == (True, {"a": "pinned"})


def test_a_list_is_written_with_its_full_value(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"plugins.enabled": ["a", "b"]}), claim())
    apply_bundle(tmp_path, bundle({"plugins.enabled": ["c"]}), claim())
    assert read(tmp_path) == {"plugins": {"enabled": ["c"]}}


def test_nothing_to_change_writes_nothing(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"a": 1}), claim())
    before = (tmp_path / "config.yaml").stat()
    assert not apply_bundle(tmp_path, bundle({"a": 1}), claim()).changed
    assert (tmp_path / "config.yaml").stat().st_mtime_ns == before.st_mtime_ns


def test_the_hosts_cache_never_sees_the_same_time_and_size(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    apply_bundle(tmp_path, bundle({"a": "x"}), claim())
    future_ns = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(future_ns, future_ns))
    apply_bundle(tmp_path, bundle({"a": "y"}), claim())
    assert path.stat().st_mtime_ns > future_ns


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "words"])
def test_a_malformed_file_is_set_aside_and_ours_takes_force(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    done = apply_bundle(tmp_path, bundle({"a": 1}), claim())
    assert Path(done.set_aside).read_text() == text
    assert read(tmp_path) == {"a": 1}


def test_another_homes_pins_are_not_taken_over(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"a": 1}), claim())
    with pytest.raises(ApplyError) as caught:
        apply_bundle(tmp_path, bundle({"a": 2}), claim("/other", "other-install"))
    assert caught.value.code == "other_install"
    apply_bundle(tmp_path, bundle({"a": 3}), claim("/h", "new-id-of-the-same-home"))
    assert read(tmp_path) == {"a": 3}


def test_a_file_that_does_not_read_back_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_bundle(tmp_path, bundle({"a": 1}), claim())
    former, owned = (tmp_path / "config.yaml").read_bytes(), load_ownership(tmp_path)
    real = apply._replace

    def garbled(path: Path, data: bytes) -> None:
        real(path, data.replace(b'"b": 2', b'"b": 3') if b'"b": 2' in data else data)

    monkeypatch.setattr(apply, "_replace", garbled)
    with pytest.raises(ApplyError) as caught:
        apply_bundle(tmp_path, bundle({"a": 1, "b": 2}), claim())
    assert caught.value.rolled_back
    assert (tmp_path / "config.yaml").read_bytes() == former
    assert load_ownership(tmp_path) == owned


def test_a_write_that_fails_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_bundle(tmp_path, bundle({"a": 1}), claim())
    former = (tmp_path / "config.yaml").read_bytes()

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ApplyError) as caught:
        apply_bundle(tmp_path, bundle({"a": 2}), claim())
    assert caught.value.code == "not_writable"
    assert (tmp_path / "config.yaml").read_bytes() == former
    assert [path for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_ownership_covers_new_keys_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = apply._replace

    def die_at_config(path: Path, data: bytes) -> None:
        if path.name == "config.yaml":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(apply, "_replace", die_at_config)
    with pytest.raises(KeyboardInterrupt):
        apply_bundle(tmp_path, bundle({"a": 1}), claim())
    assert ("a",) in load_ownership(tmp_path).paths


def test_a_header_name_with_dots_stays_one_key(tmp_path: Path) -> None:
    pins: dict[str, object] = {"telemetry.export.otlp.headers_env": {"x.y": "NAME"}}
    apply_bundle(tmp_path, bundle(pins), claim())
    assert load_ownership(tmp_path).paths.keys() == {
        ("telemetry", "export", "otlp", "headers_env", "x.y")
    }
    apply_bundle(tmp_path, bundle({}, delete=("telemetry.export.otlp.headers_env",)), claim())
    assert read(tmp_path) in (None, {})


def test_true_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    plan = plan_apply({"a": 1}, Ownership(), bundle({"a": True}))
    assert plan.conflicts == (("a",),)
    owned = replace(Ownership(), paths={("a",): "x"})
    assert plan_apply({"a": 1}, owned, bundle({"a": True})).document == {"a": True}


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=0, max_size=20
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@given(st.dictionaries(texts, values, max_size=4))
def test_whatever_is_rendered_reads_back_as_the_same(document: dict[str, object]) -> None:
    assert (yaml.safe_load(render(document)) or {}) == document


def test_a_pin_that_is_only_recommended_from_now_on_no_longer_binds(tmp_path: Path) -> None:
    apply_bundle(tmp_path, bundle({"a.b": 1, "c": 2}), claim())
    softened = replace(bundle({"c": 2}, version=2), recommended={"a": {"b": 1}})
    apply_bundle(tmp_path, softened, claim())
    assert read(tmp_path) == {"c": 2}


def test_a_document_that_yaml_cannot_give_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "parse_yaml", lambda _data: {"other": 1})
    with pytest.raises(ApplyError) as caught:
        render({"a": 1})
    assert caught.value.code == "parse_back"
