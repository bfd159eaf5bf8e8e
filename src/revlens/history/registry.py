"""Published training checkpoints by their labels in TransformerLens' registry."""

from __future__ import annotations

from transformer_lens.model_bridge.sources.transformers import _CHECKPOINT_REVISION_FORMATS
from transformer_lens.tools.model_registry.checkpoints import get_checkpoint_labels

from revlens.errors import HistoryError
from revlens.history.hub import Hub


def registered(model: str, step: int) -> Hub:
    """The hub revision of a training checkpoint; finding its name needs no network.

    Args:
        model: a repository whose revisions are training checkpoints, such as ``EleutherAI/pythia-70m``.
        step: the label of the checkpoint, which counts optimizer updates.

    Raises:
        HistoryError: if the model has no registered checkpoints, or none with this label.
    """
    formats = [form for prefix, form in _CHECKPOINT_REVISION_FORMATS.items() if model.startswith(prefix)]
    if not formats:
        raise HistoryError(
            f"{model!r} has no training checkpoints in TransformerLens' registry; "
            f"it knows {', '.join(_CHECKPOINT_REVISION_FORMATS)}*. "
            "Name other revisions with Hub(repo, revision)."
        )
    labels, _ = get_checkpoint_labels(model)
    if step not in labels:
        raise HistoryError(f"{model} has no checkpoint {step}; there are {_ranges(labels)}.")
    return Hub(model, formats[0].format(value=step))


def _ranges(labels: list[int]) -> str:
    """Labels in words; three or more at equal distances as ``first-last (every n)``."""
    pieces, start = [], 0
    while start < len(labels):
        end = start + 1
        while end + 1 < len(labels) and labels[end + 1] - labels[end] == labels[start + 1] - labels[start]:
            end += 1
        if end - start >= 2 and end < len(labels):
            pieces.append(f"{labels[start]}-{labels[end]} (every {labels[start + 1] - labels[start]})")
            start = end + 1
        else:
            pieces.append(str(labels[start]))
            start += 1
    return ", ".join(pieces)
