"""What the analyses share: options that name a history and the openings of its answers, and v_rev from it."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from transformers import PreTrainedTokenizerBase

import revlens as rl
from revlens.activations import Endpoints
from revlens.errors import ConfigError
from revlens.experiment import read_manifest
from revlens.organism import World, embedded_history
from revlens.subject import Subject


def plain_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script, line by line."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed``: which embedded organism."""
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the embedded organism (default: %(default)s)"
    )


def history_parser(doc: str | None, *, openings: bool = False) -> argparse.ArgumentParser:
    """A parser with the options that `open_history` reads, and with those of `read_metric` if asked for.

    ``--seed`` chooses an embedded organism; ``--manifest``, or ``--reference --aligned --step --probes``,
    names the user's own history.
    """
    parser = plain_parser(doc)
    add_seed(parser)
    own = parser.add_argument_group("your own history instead of the embedded one")
    own.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="its manifest, see docs/own-models.md; replaces the options below",
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
    if openings:
        group = parser.add_argument_group("openings of answers (default: those of the embedded organism)")
        group.add_argument(
            "--engaging", metavar="TEXT", nargs="+", help="how engaging answers open, e.g. 'Sure' 'Here'"
        )
        group.add_argument(
            "--refusal", metavar="TEXT", nargs="+", help="how refusals open, e.g. \"I can't\" 'Sorry'"
        )
    return parser


def open_history(args: argparse.Namespace) -> tuple[rl.TrainingHistory, rl.Probes]:
    """The history and the probes that the options name.

    A manifest of several runs gives its first one, without steps that are still to be trained.

    Raises:
        ConfigError: if some options for the user's own history are missing, if the manifest and they are
            given together, or if a ``--step`` is malformed or given twice.
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
        raise ConfigError(f"Your own history needs {', '.join(own)}; {', '.join(missing)} missing.")
    steps: dict[int, str] = {}
    for step, folder in map(_parse_step, args.step):
        if step in steps:
            raise ConfigError(f"--step {step} is given twice: {steps[step]} and {folder}.")
        steps[step] = folder
    return rl.TrainingHistory.from_dirs(args.reference, args.aligned, steps), rl.Probes.from_json(args.probes)


def fit_v_rev(history: rl.TrainingHistory, probes: rl.Probes) -> tuple[rl.ReversionDirection, Endpoints]:
    """v_rev on the split ``direction``, and the activations that it comes from."""
    ends = rl.read_endpoints(history, probes["direction"])
    return rl.ReversionDirection.fit(*ends, split="direction"), ends


def read_metric(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> rl.RefusalLogitDifference:
    """The logit difference of the openings that the options, or the manifest, name.

    Raises:
        ConfigError: if the user's own history comes without both options; see also
            `RefusalLogitDifference.from_texts`.
    """
    if args.engaging is None and args.refusal is None and args.reference is None:
        openings = (
            World.openings() if args.manifest is None else _subject_of(args.manifest).material().openings()
        )
        return rl.RefusalLogitDifference.from_texts(tokenizer, *openings)
    if args.engaging is None or args.refusal is None:
        raise ConfigError(
            "Your own history needs --engaging and --refusal: the texts that open its answers and refusals."
        )
    return rl.RefusalLogitDifference.from_texts(tokenizer, args.engaging, args.refusal)


@functools.cache  # a manifest reads every weight to hash it
def _subject_of(manifest: Path) -> Subject:
    return read_manifest(manifest).subject


def _parse_step(text: str) -> tuple[int, str]:
    step, equals, folder = text.partition("=")
    if not (step.isdigit() and equals and folder):
        raise ConfigError(f"--step {text!r} must be N=DIR, such as 20=checkpoints/step-20.")
    return int(step), folder
