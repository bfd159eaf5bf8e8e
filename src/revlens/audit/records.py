"""Stored claims and provenance against recomputed ones, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from revlens.audit.difference import Difference, Verification, missing
from revlens.results import Claim, to_records


def compare_claims(path: Path, claims: list[Claim], verb: str) -> Verification:
    """Compare every field of stored claims with that of the recomputed claims."""
    computed = _by_key(to_records(claims))
    return Verification(tuple(_differences(computed, path, verb)), {"claims": len(claims)})


def compare_provenance(path: Path, provenance: Mapping[str, Any], verb: str) -> Verification:
    """Compare every field of the stored provenance with that of today's."""
    return Verification(tuple(_differences(json.loads(json.dumps(provenance)), path, verb)), {})


def _by_key(claims: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {claim["key"]: claim for claim in claims}


def _differences(computed: Mapping[str, Any], path: Path, verb: str) -> Iterator[Difference]:
    try:
        stored = json.loads(path.read_text())
        stored_values = dict(_leaves(_by_key(stored) if isinstance(stored, list) else stored))
    except FileNotFoundError:
        yield missing(path, verb)
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Difference(str(path), f"cannot be read: {error!r}")
        return
    computed_values = dict(_leaves(computed))
    for field in dict.fromkeys([*computed_values, *stored_values]):
        theirs, ours = stored_values.get(field, "nothing"), computed_values.get(field, "nothing")
        if theirs != ours:
            yield Difference(f"{path}, {field}", f"stored {theirs!r}, recomputed {ours!r}")


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text in nested objects and lists, with the way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{i}]")
    else:
        yield place, value
