"""Capture activations at every checkpoint of a history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from revlens.activations.manifest import DTYPES, MANIFEST, Manifest, Shard, fingerprint_of_rows
from revlens.activations.prefetch import each_loaded
from revlens.activations.reading import read_prompts
from revlens.activations.sites import Sites
from revlens.activations.store import Activations
from revlens.activations.tokens import read_tokens
from revlens.activations.writer import StoreWriter, store_writer
from revlens.context import check_context, context_of
from revlens.errors import ConfigError, ResultsError
from revlens.forward import PositionsOrAll
from revlens.history import Checkpoint, TrainingHistory
from revlens.prompts import Probes, encode_prompts


def capture(
    history: TrainingHistory,
    probes: Probes,
    root: str | Path,
    *,
    sites: Sites | None = None,
    positions: PositionsOrAll = "last",
    splits: Sequence[str] | None = None,
    batch_size: int = 64,
    dtype: str = "float32",
    shard_prompts: int = 512,
    on_checkpoint: Callable[[str], None] = lambda name: None,
) -> Activations:
    """Capture activations at every checkpoint of a history into a folder.

    Resumes: existing shards are not computed again, and a checkpoint that has all of its shards is not
    loaded. The folder remembers what it holds (sources of the weights, probes and their token ids, sites) and
    takes more checkpoints and splits, but nothing else. A chat template that reads the date reads the
    history's ``template_date``; without one, the day on which the capture began, after a resume too. While
    one checkpoint is read the next one loads, if memory holds both.

    Args:
        history: the checkpoints.
        probes: the prompts.
        root: folder of the store.
        sites: component and layers; resid_post of every layer if None.
        positions: position policy, or ``all`` to keep every prompt token.
        splits: which probe splits; all of them if None.
        batch_size: prompts per forward pass.
        dtype: of the stored numbers, ``float32`` or ``bfloat16``; reads give float64.
        shard_prompts: prompts per file. At most four shards are in memory.
        on_checkpoint: called with each checkpoint's name when it is on disk.

    Raises:
        ProbeError, SiteError, NonFiniteError: see `read_prompts`, `Sites`, `Probes`.
        ConfigError: on an unknown dtype, if shard_prompts or the batch size is below 1, or a prompt does not
            fit the model's context; also see `revlens.prompts.encode_prompts`.
        HistoryError: if a checkpoint cannot be loaded.
        ResultsError: if the folder belongs to another capture, or its prompts had other token ids, naming
            the first; or a checkpoint changed half way.
        StorageError: if the folder cannot be written to (the disk is full, say), or another process writes
            there.
    """
    if dtype not in DTYPES or shard_prompts < 1:
        raise ConfigError(
            f"dtype={dtype!r} must be one of {', '.join(DTYPES)}, "
            f"and shard_prompts={shard_prompts} must be at least 1."
        )
    root, sites = Path(root), sites or Sites()
    prompts = {split: probes[split] for split in (probes.splits if splits is None else splits)}
    before = Manifest.read(root) if (root / MANIFEST).exists() else None
    if history.reads_clock and history.template_date is None:
        history = replace(
            history, template_date=before.template_date if before else history.aligned.template_date
        )
    tokenizer = history.aligned.tokenizer()
    rows = {split: encode_prompts(tokenizer, texts) for split, texts in prompts.items()}
    manifest = Manifest(
        checkpoints={checkpoint.name: checkpoint.source.identity() for checkpoint in history},
        splits={split: len(texts) for split, texts in prompts.items()},
        probes={split: Probes({split: texts}).fingerprint() for split, texts in prompts.items()},
        tokens={split: fingerprint_of_rows(encoded) for split, encoded in rows.items()},
        template_date=history.aligned.template_date if history.reads_clock else None,
        layers=sites.resolve(history.n_layers),
        component=sites.component,
        positions=positions,
        computed=str(history.dtype).removeprefix("torch."),
        dtype=dtype,
        shard_prompts=shard_prompts,
    )
    if before is not None:
        _check_tokens(before, manifest, prompts, root)
    with store_writer(root, manifest) as writer:
        missing = {checkpoint.name: writer.missing(checkpoint.name) for checkpoint in history}
        for checkpoint in history:
            if not missing[checkpoint.name]:
                on_checkpoint(checkpoint.name)

        def capture_one(checkpoint: Checkpoint, model: TransformerBridge) -> None:
            for split, texts in prompts.items():
                check_context(context_of(model), [len(row) for row in rows[split]], texts)
            writer.begin(checkpoint.name, checkpoint.source.fingerprint())
            for shard in missing[checkpoint.name]:
                held = manifest.prompts_of(shard)
                _capture_shard(
                    writer,
                    shard,
                    model,
                    prompts[shard.split][held.start : held.stop],
                    sites,
                    positions,
                    batch_size,
                )
            writer.flush()
            on_checkpoint(checkpoint.name)

        each_loaded([checkpoint for checkpoint in history if missing[checkpoint.name]], capture_one)
    return Activations.open(root)


def _check_tokens(before: Manifest, now: Manifest, prompts: Mapping[str, Sequence[str]], root: Path) -> None:
    """Check that prompts of the same wording still have the same token ids."""
    if before.probes.items() <= now.probes.items() and (place := before.first_other_tokens(now)):
        split, i = place
        raise ResultsError(
            f"{root} holds activations of other token ids: prompt {i} of {split!r}, "
            f"{prompts[split][i]!r}, was "
            "rendered or encoded in another way. The tokenizer, its chat template, its arguments "
            f"(template_kwargs) or its date (template_date: {before.template_date} there, "
            f"{now.template_date} "
            "now) have changed. Restore them, or use another folder."
        )


def _capture_shard(
    writer: StoreWriter,
    shard: Shard,
    model: TransformerBridge,
    prompts: Sequence[str],
    sites: Sites,
    positions: PositionsOrAll,
    batch_size: int,
) -> None:
    if positions == "all":
        values = read_tokens(model, prompts, sites, batch_size=batch_size)
        writer.write(shard, torch.cat(values), torch.tensor([0, *accumulate(map(len, values))]))
    else:
        writer.write(shard, read_prompts(model, prompts, sites, positions, batch_size=batch_size))
