"""Published completions with refusal labels, for the agreement of a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from revlens.errors import DataError, FileError
from revlens.storage import read_json

_LABEL = "is_jailbreak_"


@dataclass(frozen=True)
class Completion:
    """A prompt, a model's reply, and its labels.

    Attributes:
        refused: by labeller (such as ``substring_matching`` or ``llamaguard2``), whether the reply is no
            jailbreak.
    """

    prompt: str
    reply: str
    refused: Mapping[str, bool]


def read_completions(path: str | Path) -> list[Completion]:
    """Read a completions file in the format of refusal_direction's pipeline.

    ``{"completions": [{"prompt": ..., "response": ..., "is_jailbreak_LABELLER": 0 or 1, ...}, ...]}``; other
    entries are ignored. Every completion must carry the same labellers, at least one.

    Raises:
        DataError: if the file cannot be read or has another form.
    """
    try:
        content = read_json(Path(path))
    except FileError as error:
        raise DataError(f"Cannot read completions from {path}: {error}") from error
    rows = content.get("completions") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f"{path} holds no completions; expected "
            '{"completions": [{"prompt": ..., "response": ...}, ...]}.'
        )
    completions = [_completion(row, f"{path}, completion {i}") for i, row in enumerate(rows)]
    for i, completion in enumerate(completions):
        if completion.refused.keys() != completions[0].refused.keys():
            raise DataError(
                f"{path}, completion {i} is labelled by {list(completion.refused)}, "
                f"the first by {list(completions[0].refused)}."
            )
    return completions


def _completion(row: Any, where: str) -> Completion:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("prompt", "response")):
        raise DataError(f"{where} needs a text 'prompt' and a text 'response'.")
    labels = {key.removeprefix(_LABEL): value for key, value in row.items() if key.startswith(_LABEL)}
    if not labels:
        raise DataError(f"{where} has no label; expected at least one '{_LABEL}...' of 0 or 1.")
    for name, value in labels.items():
        if value not in (0, 1):
            raise DataError(f"{where} has {_LABEL}{name}={value!r}; expected 0 or 1.")
    return Completion(row["prompt"], row["response"], {name: value == 0 for name, value in labels.items()})
