"""The results folder of an experiment: tables, claims and what made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from revlens.results.claim import Claim, to_records
from revlens.results.tables import Tables
from revlens.storage import atomic_directory, write_json


def save_results(folder: Path, tables: Tables, claims: list[Claim], provenance: dict[str, Any]) -> None:
    """Replace a results folder by tables, claims.json and provenance.json, each with its checksum."""
    with atomic_directory(folder) as partial:
        write_json(partial / "claims.json", to_records(claims))
        write_json(partial / "provenance.json", provenance)
        tables.save(partial)  # last: it writes the list of checksums, of the others too
