"""Files as an attacker, or an accident, makes them."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any


class _Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def pickle_that_runs(path: Path, mark: Path) -> Path:
    """A pickle that makes a folder ``mark`` when it is read."""
    path.write_bytes(pickle.dumps(_Runs(mark)))
    return path


def safetensors_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file: the header's length, the header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """A header's entry of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


#: Broken safetensors files, by their fault.
BROKEN_SAFETENSORS = {
    "nothing": b"",
    "shorter than its length field": b"\x01\x02",
    "a header of 2**63 bytes": safetensors_bytes({}, length=2**63),
    "a header longer than the file": safetensors_bytes({}, length=10_000),
    "a header of 200 MB": safetensors_bytes({}, length=200_000_000),
    "no JSON": safetensors_bytes(b"{'a': }"),
    "no UTF-8": safetensors_bytes(b"\xff\xfe\xfd\xfc"),
    "a list": safetensors_bytes([1, 2]),
    "overlapping tensors": safetensors_bytes({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "a hole": safetensors_bytes({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, bytes(12)),
    "a shape of 2**62 numbers": safetensors_bytes({"a": tensor([2**31, 2**31], 0, 4)}, bytes(4)),
    "a shape that overflows": safetensors_bytes({"a": tensor([2**40, 2**40, 2**40], 0, 4)}, bytes(4)),
    "data cut off": safetensors_bytes({"a": tensor([100], 0, 400)}, bytes(40)),
    "data left over": safetensors_bytes({"a": tensor([1], 0, 4)}, bytes(40)),
    "offsets backwards": safetensors_bytes({"a": tensor([1], 4, 0)}, bytes(4)),
    "a negative shape": safetensors_bytes({"a": tensor([-1], 0, 4)}, bytes(4)),
    "an unknown dtype": safetensors_bytes({"a": tensor([1], 0, 4, "PICKLE")}, bytes(4)),
    "nesting without end": safetensors_bytes(b'{"a":' * 50_000),
}
