"""What is v_rev made of, and what is the drift, in the model's own words? Lenses, beside random directions.

python analyses/what_v_rev_is.py --out DIR                 # the embedded organism, five seeds, some minutes
python analyses/what_v_rev_is.py --track llm --model FILE.gguf --data-dir DATA --out DIR
python analyses/what_v_rev_is.py --manifest run.toml --decoder 12=sae_weights.safetensors --out DIR
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import disable_progress_bars
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from _lens_claims import claims, figures, summary
from _lens_tables import TABLES, Settings, measure
from _options import plain_parser
from revlens.cli.claims import print_claims
from revlens.errors import ConfigError
from revlens.experiment import (
    ExperimentConfig,
    environment,
    llm_experiment,
    organism_experiment,
    read_manifest,
)
from revlens.figures import draw
from revlens.results import config_json, to_records
from revlens.storage import atomic_directory, read_json, write_json, write_text

#: The file that says what made the results.
MADE = "what_v_rev_is.json"


def _chosen(args: argparse.Namespace) -> ExperimentConfig:
    """The experiment whose subject and baseline are read."""
    if args.manifest is not None:
        if args.track or args.model or args.data_dir:
            raise ConfigError("--manifest says everything; leave --track, --model and --data-dir out.")
        config = read_manifest(args.manifest)
    elif args.track == "llm":
        config = llm_experiment(model=args.model, data_dir=args.data_dir)
    elif args.model is not None:
        raise ConfigError("--model is for --track llm; an organism trains its own.")
    else:
        config = organism_experiment(args.track or "organism", data_dir=args.data_dir)
    return config if args.seeds is None else config.with_seeds(args.seeds)


def _decoder(text: str) -> tuple[int, Path]:
    layer, equals, path = text.partition("=")
    if not (layer.isdigit() and equals and path):
        raise ConfigError(f"--decoder {text!r} must be LAYER=FILE, such as 12=sae_weights.safetensors.")
    return int(layer), Path(path)


def _read_decoder(path: Path) -> Tensor:
    """The tensor W_dec of a safetensors file, as sae-lens writes it."""
    tensors = load_file(path)
    if "W_dec" not in tensors:
        raise ConfigError(f"{path} has no tensor W_dec, only {', '.join(sorted(tensors))}.")
    return tensors["W_dec"]


def _check_same(path: Path, made: dict[str, Any]) -> None:
    """Refuse a folder whose runs were made otherwise: they would be taken for those asked for.

    Raises:
        ConfigError: naming what differs.
    """
    before = read_json(path) if path.is_file() else made
    if other := [name for name, value in json.loads(json.dumps(made)).items() if before.get(name) != value]:
        raise ConfigError(f"{path.parent} has runs of another {' and '.join(other)}; choose another --out.")


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; done seeds are kept")
    parser.add_argument("--seeds", type=int, help="runs (default: those of the experiment)")
    parser.add_argument("--track", choices=("organism", "text", "llm"), help="default: organism")
    parser.add_argument("--manifest", type=Path, help="your own checkpoints, see docs/own-models.md")
    parser.add_argument(
        "--model", metavar="MODEL", help="of the llm track: a GGUF file, a folder or a hub id"
    )
    parser.add_argument("--data-dir", type=Path, help="folder with the data of the text or the llm track")
    parser.add_argument(
        "--draws", type=int, default=200, help="random directions of each null (default: %(default)s)"
    )
    parser.add_argument(
        "--lens-prompts", type=int, default=32, help="prompts of the Jacobian lens (default: %(default)s)"
    )
    parser.add_argument(
        "--decoder", action="append", default=[], metavar="LAYER=FILE",
        help="safetensors file with the W_dec of a sparse autoencoder on resid_post of a layer; repeat",
    )  # fmt: skip
    args = parser.parse_args()

    disable_progress_bars()
    config = _chosen(args)
    decoders = {layer: _read_decoder(path) for layer, path in map(_decoder, args.decoder)}
    made = {
        "subject": config_json(config.subject),
        "steps": list(config.steps),
        "draws": args.draws,
        "lens_prompts": args.lens_prompts,
        "decoders": args.decoder,
    }
    _check_same(args.out / MADE, made)
    write_json(args.out / MADE, made | {"seeds": list(config.seeds)} | environment())
    settings = Settings(args.draws, args.lens_prompts, decoders)
    for seed in config.seeds:
        folder = args.out / f"seed-{seed}"
        if not folder.is_dir():
            tables = measure(config, seed, settings)
            with atomic_directory(folder) as partial:
                for name, table in tables.items():
                    table.to_parquet(partial / f"{name}.parquet", index=False)
    tables = {
        name: pd.concat(
            [pd.read_parquet(args.out / f"seed-{seed}" / f"{name}.parquet") for seed in config.seeds],
            ignore_index=True,
        )
        for name in TABLES
    }
    for name, table in tables.items():
        table.to_parquet(args.out / f"{name}.parquet", index=False)
    found = claims(tables)
    write_json(args.out / "claims.json", to_records(found))
    write_text(args.out / "summary.md", summary(config.subject.summary, tables, found))
    draw(figures(tables), args.out / "figures")
    print_claims(found, Console(width=150), every=True)


if __name__ == "__main__":
    main()
