"""Command-line options that say which training history an analysis looks at: the user's own, or the embedded organism's."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from revlens.causal import RefusalLogitDifference
from revlens.errors import ConfigError
from revlens.experiment.manifest import read_manifest
from revlens.history import TrainingHistory
from revlens.organism import World, embedded_history
from revlens.prompts import Probes
from revlens.subject import Subject


def add_history_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed`` (the embedded organism) and ``--manifest`` or ``--reference --aligned --step --probes`` (one's own)."""
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the embedded organism (default: %(default)s)"
    )
    own = parser.add_argument_group("one's own history instead of the embedded one")
    own.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="its manifest, see docs/own-models.md; instead of what follows",
    )
    own.add_argument(
        "--reference", metavar="DIR", help="Hugging Face directory of the earlier, permissive checkpoint"
    )
    own.add_argument("--aligned", metavar="DIR", help="directory of the aligned checkpoint")
    own.add_argument(
        "--step",
        metavar="N=DIR",
        action="append",
        default=[],
        help="a fine-tuning checkpoint after N updates; repeat",
    )
    own.add_argument(
        "--probes",
        metavar="JSON",
        help="file with prompts by split: direction, drift, behaviour, guard, harmless",
    )


def open_history(args: argparse.Namespace) -> tuple[TrainingHistory, Probes]:
    """The history and probes that the options name. Of a manifest's runs it is the first; steps that are still to be trained are not in it.

    Raises:
        ConfigError: if only some of the options for one's own history are given, or two ways at once, or a ``--step`` is
            malformed or given twice.
        HistoryError, ProbeError: see `TrainingHistory` and `Probes.from_json`.
    """
    own = {"--reference": args.reference, "--aligned": args.aligned, "--probes": args.probes}
    missing = [name for name, value in own.items() if value is None]
    if args.manifest is not None:
        if len(missing) < len(own) or args.step:
            raise ConfigError("--manifest names the history and its probes; leave the options for them out.")
        subject = _subject_of(args.manifest)
        return subject.observed(0) or subject.start(0), subject.material().probes()
    if len(missing) == len(own) and not args.step:
        return embedded_history(args.seed)
    if missing:
        raise ConfigError(f"One's own history needs {', '.join(own)}; {', '.join(missing)} missing.")
    steps: dict[int, str] = {}
    for step, folder in map(_parse_step, args.step):
        if step in steps:
            raise ConfigError(f"--step {step} is given twice: {steps[step]} and {folder}.")
        steps[step] = folder
    return TrainingHistory.from_dirs(args.reference, args.aligned, steps), Probes.from_json(args.probes)


@functools.cache  # reading a manifest reads every weight
def _subject_of(manifest: Path) -> Subject:
    return read_manifest(manifest).subject


def _parse_step(text: str) -> tuple[int, str]:
    step, equals, folder = text.partition("=")
    if not (step.isdigit() and equals and folder):
        raise ConfigError(f"--step {text!r} must be N=DIR, such as 20=checkpoints/step-20.")
    return int(step), folder


def add_opening_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--engaging`` and ``--refusal``: how answers open, which decides the logit difference."""
    group = parser.add_argument_group("openings of answers (default: those of the embedded organism)")
    group.add_argument(
        "--engaging", metavar="TEXT", nargs="+", help="how engaging answers open, e.g. 'Sure' 'Here'"
    )
    group.add_argument(
        "--refusal", metavar="TEXT", nargs="+", help="how refusals open, e.g. \"I can't\" 'Sorry'"
    )


def read_openings(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> RefusalLogitDifference:
    """The engaging-minus-refusal metric that the options, or the manifest, name.

    Raises:
        ConfigError: if one's own history comes without both options, or see `RefusalLogitDifference.from_texts`.
    """
    if args.engaging is None and args.refusal is None and args.reference is None:
        openings = (
            World.openings() if args.manifest is None else _subject_of(args.manifest).material().openings()
        )
        return RefusalLogitDifference.from_texts(tokenizer, *openings)
    if args.engaging is None or args.refusal is None:
        raise ConfigError(
            "One's own history needs --engaging and --refusal: the texts with which its answers and refusals open."
        )
    return RefusalLogitDifference.from_texts(tokenizer, args.engaging, args.refusal)
