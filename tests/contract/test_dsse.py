"""Envelopes: what was signed comes out, and nothing else does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import dsse
from agent_client.contract.dsse import DsseError, SigningKey, open_envelope, peek, seal

KIND = "application/vnd.example+json"
FIRST, SECOND = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)


def trust(*keys: SigningKey) -> dict[str, bytes]:
    return {key.key_id: key.public for key in keys}


def test_a_sealed_document_is_opened_by_its_key() -> None:
    envelope = seal(KIND, {"b": 1, "a": "é"}, [FIRST])
    assert open_envelope(envelope, KIND, trust(FIRST)) == '{"a":"é","b":1}'.encode()


def test_the_signature_is_over_the_protocols_own_encoding() -> None:
    assert dsse.pae("a/b", b"hello") == b"DSSEv1 3 a/b 5 hello"
    assert dsse.pae("é", b"") == "DSSEv1 2 é 0 ".encode()


def test_ed25519_agrees_with_the_first_vector_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    key = SigningKey(seed)
    assert key.public.hex() == public
    assert key.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")


def test_a_key_never_shows_its_seed_when_printed() -> None:
    assert repr(FIRST) == "SigningKey(…)"


def test_an_untrusted_key_opens_nothing() -> None:
    envelope = seal(KIND, {}, [FIRST])
    with pytest.raises(DsseError) as caught:
        open_envelope(envelope, KIND, trust(SECOND))
    assert caught.value.code == "bad_signature"


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(DsseError) as caught:
        open_envelope(seal(KIND, {}, [FIRST]), "other", trust(FIRST))
    assert caught.value.code == "wrong_payload_type"


def test_a_threshold_counts_different_keys() -> None:
    twice = seal(KIND, {}, [FIRST, FIRST])
    with pytest.raises(DsseError):
        open_envelope(twice, KIND, trust(FIRST, SECOND), threshold=2)
    both = seal(KIND, {}, [FIRST, SECOND])
    assert open_envelope(both, KIND, trust(FIRST, SECOND), threshold=2) == b"{}"


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_opens_nothing(threshold: int) -> None:
    with pytest.raises(DsseError):
        open_envelope(seal(KIND, {}, [FIRST]), KIND, trust(FIRST), threshold)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_gives_another_payload(place: int, flip: int) -> None:
    envelope = bytearray(seal(KIND, {"a": 1}, [FIRST]))
    envelope[place % len(envelope)] ^= flip
    try:
        payload = open_envelope(bytes(envelope), KIND, trust(FIRST))
    except DsseError:
        return
    # Only the parts that base64 or JSON write in two ways may differ.
    assert payload == b'{"a":1}'


def with_payload_type(data: dict[str, object]) -> dict[str, object]:
    return {**data, "payloadType": 7}


def with_bad_base64(data: dict[str, object]) -> dict[str, object]:
    return {**data, "payload": "not base64!"}


def without_signatures(data: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in data.items() if name != "signatures"}


def with_a_text_as_signature(data: dict[str, object]) -> dict[str, object]:
    return {**data, "signatures": ["x"]}


@pytest.mark.parametrize(
    "damage", [with_payload_type, with_bad_base64, without_signatures, with_a_text_as_signature]
)
def test_a_damaged_envelope_is_malformed(
    damage: Callable[[dict[str, object]], dict[str, object]],
) -> None:
    data = json.loads(seal(KIND, {}, [FIRST]))
    with pytest.raises(DsseError) as caught:
        peek(json.dumps(damage(data)).encode())
    assert caught.value.code == "malformed_envelope"


@pytest.mark.parametrize(
    "envelope",
    [b"", b"[]", b"\xff", b"[" * 100_000, b" " * (dsse.MAX_ENVELOPE_BYTES + 1)],
    ids=["empty", "list", "not utf-8", "deep", "too large"],
)
def test_hostile_bytes_are_malformed(envelope: bytes) -> None:
    with pytest.raises(DsseError, match="malformed_envelope"):
        open_envelope(envelope, KIND, trust(FIRST))


def test_peek_shows_the_payload_without_a_key() -> None:
    assert peek(seal(KIND, {"a": 1}, [])) == b'{"a":1}'


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_or_signature_of_wrong_size_verifies_nothing(size: int) -> None:
    assert not dsse.verify(bytes(size), b"m", FIRST.sign(b"m"))
    assert not dsse.verify(FIRST.public, b"m", bytes(size))


def test_a_signature_of_another_type_of_text_is_refused() -> None:
    data = json.loads(seal(KIND, {}, [FIRST]))
    data["signatures"][0]["sig"] = base64.b64encode(b"short").decode()
    with pytest.raises(DsseError, match="bad_signature"):
        open_envelope(json.dumps(data).encode(), KIND, trust(FIRST))
