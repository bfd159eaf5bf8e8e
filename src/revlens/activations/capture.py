"""Capturing activations at every checkpoint of a history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from revlens.activations.positions import Positions
from revlens.activations.reading import read_prompts
from revlens.activations.sites import Sites
from revlens.activations.store import Activations, checkpoint_file, claim, write_checkpoint
from revlens.history import TrainingHistory
from revlens.prompts import Probes


def capture(
    history: TrainingHistory,
    probes: Probes,
    root: str | Path,
    *,
    sites: Sites | None = None,
    positions: Positions = "last",
    splits: Sequence[str] | None = None,
    batch_size: int = 64,
    on_checkpoint: Callable[[str], None] = lambda name: None,
) -> Activations:
    """Capture activations at every checkpoint of a history, one model in memory at a time.

    Resumes: a checkpoint whose file is there is not run again. The folder remembers what it holds (sources of the
    weights, probes, sites), and refuses anything else.

    Args:
        history: the checkpoints.
        probes: the prompts.
        root: folder for the safetensors files.
        sites: component and layers; resid_post of every layer if None.
        positions: position policy.
        splits: which probe splits; all of them if None.
        batch_size: prompts per forward pass.
        on_checkpoint: called with each checkpoint's name when it is done.

    Raises:
        ProbeError, SiteError, NonFiniteError: see `read_prompts`, `Sites`, `Probes`.
        ResultsError: if the folder belongs to another capture.
    """
    root, sites = Path(root), sites or Sites()
    splits = list(probes.splits if splits is None else splits)
    prompts = {split: probes[split] for split in splits}
    layers = sites.resolve(history.n_layers)
    claim(
        root,
        {
            "checkpoints": [checkpoint.name for checkpoint in history],
            "sources": [checkpoint.source.identity() for checkpoint in history],
            "dtype": str(history.dtype),
            "layers": list(layers),
            "component": sites.component,
            "positions": positions,
            "splits": {split: len(prompts[split]) for split in splits},
            "probes": probes.fingerprint(),
        },
    )
    for checkpoint in history:
        if not checkpoint_file(root, checkpoint.name).is_file():
            model = checkpoint.load()
            write_checkpoint(
                root,
                checkpoint.name,
                {split: read_prompts(model, prompts[split], sites, positions, batch_size=batch_size) for split in splits},
            )
        on_checkpoint(checkpoint.name)
    return Activations.open(root)
