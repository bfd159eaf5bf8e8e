"""Stores of given activations, as `revlens.activations.capture` leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from revlens.activations import Activations
from revlens.activations.manifest import Manifest, Shard
from revlens.activations.writer import StoreWriter, store_writer

Given = Mapping[str, Mapping[str, Tensor]]
GivenTokens = Mapping[str, Mapping[str, Sequence[Tensor]]]


def manifest_of(
    splits: Mapping[str, int], checkpoints: Sequence[str], layers: Sequence[int], **settings: object
) -> Manifest:
    """The manifest of a store without shards."""
    others = {
        "component": "resid_post",
        "positions": "last",
        "computed": "float32",
        "dtype": "float32",
        "shard_prompts": 512,
    }
    return Manifest(
        checkpoints={name: f"weights of {name}" for name in checkpoints},
        splits=dict(splits),
        probes={split: f"{i:064x}" for i, split in enumerate(splits)},
        layers=tuple(layers),
        **others | settings,  # type: ignore[arg-type]
    )


def store_of(root: Path, given: Given, layers: Sequence[int], **settings: object) -> Activations:
    """Write ``[prompt, layer, d_model]`` by checkpoint and split."""
    return fill(
        root,
        manifest_of(
            {split: len(values) for split, values in next(iter(given.values())).items()},
            list(given),
            layers,
            **settings,
        ),
        given,
    )


def fill(root: Path, manifest: Manifest, given: Given) -> Activations:
    """Write what a store lacks."""
    with store_writer(root, manifest) as writer:
        for name in manifest.checkpoints:
            for shard in writer.missing(name):
                write(writer, manifest, shard, given)
    return Activations.open(root)


def write(writer: StoreWriter, manifest: Manifest, shard: Shard, given: Given) -> None:
    """Write one shard."""
    held = manifest.prompts_of(shard)
    writer.write(shard, given[shard.checkpoint][shard.split][held.start : held.stop])


def token_store_of(root: Path, given: GivenTokens, layers: Sequence[int], **settings: object) -> Activations:
    """Write ``[pos, layer, d_model]`` of each prompt by checkpoint and split."""
    splits = {split: len(values) for split, values in next(iter(given.values())).items()}
    manifest = manifest_of(splits, list(given), layers, positions="all", **settings)
    with store_writer(root, manifest) as writer:
        for name in manifest.checkpoints:
            for shard in writer.missing(name):
                held = manifest.prompts_of(shard)
                prompts = given[name][shard.split][held.start : held.stop]
                writer.write(
                    shard, torch.cat(list(prompts)), torch.tensor([0, *accumulate(map(len, prompts))])
                )
    return Activations.open(root)
