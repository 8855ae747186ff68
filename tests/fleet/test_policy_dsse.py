"""The console's side of the DSSE golden vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_client import contract
from agent_client.contract import dsse

VECTORS = json.loads((Path(contract.__file__).parent / "vectors" / "dsse.json").read_text())


def test_the_pre_authentication_encoding_is_the_golden_one() -> None:
    vector = VECTORS["pae"]
    made = dsse.pae(vector["payload_type"], vector["payload"].encode())
    assert made.hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["open"], ids=lambda vector: vector["name"])
def test_an_envelope_opens_or_fails_as_the_golden_one(vector: dict[str, Any]) -> None:
    trusted = {name: bytes.fromhex(key) for name, key in vector["trusted"].items()}

    def opened() -> bytes:
        return dsse.open_envelope(
            vector["envelope"].encode(), vector["payload_type"], trusted, vector["threshold"]
        )

    if vector["error"]:
        with pytest.raises(dsse.DsseError) as caught:
            opened()
        assert caught.value.code == vector["error"]
    else:
        assert opened().decode() == vector["payload"]


def test_sealing_is_deterministic() -> None:
    key = dsse.SigningKey(bytes.fromhex(VECTORS["seeds"][0]))
    first = VECTORS["open"][0]
    document = json.loads(first["payload"])
    assert dsse.seal(first["payload_type"], document, [key]) == first["envelope"].encode()
