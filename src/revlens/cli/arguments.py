"""What a command line may say, and its help."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from revlens.experiment import PLANS

#: Verbs that run a whole plan, and its name in a configuration.
WHOLE = {plan.verb: name for name, plan in PLANS.items()}
#: Verbs that say what is or would be, and run nothing.
LOOKING = {
    "inspect": "what a manifest would run, on what, in how much time, memory and disk",
    "runs": "what an output folder has done and what it has left",
}
#: Verbs that look at data before anything is trained on it.
BEFORE = {"screen": "score the task's rows by how far an update on each would take the aligned model back"}
#: Verbs that run one stage, of whichever plan the folder's experiment has.
STAGES = {stage.name: stage.summary for plan in [*PLANS.values()][::-1] for stage in plan.stages}
#: Verbs on what the stages left.
AFTERWARDS = {
    "analyse": "tables, claims and provenance, from what the stages left on disk",
    "report": "figures and the HTML report, from the tables",
    "rejudge": "apply another judge to the replies that are kept: results in DIR/rejudged/JUDGE",
    "verify": "compute tables, claims and figures again from what is stored, and name every difference",
}
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "Look first": LOOKING | BEFORE,
    "Whole experiments": {plan.verb: plan.summary for plan in PLANS.values()},
    "Stages, one by one": STAGES,
    "Results": AFTERWARDS,
}
_EXAMPLES = {
    "": (
        "reproduce --quick",
        "inspect run.toml",
        "reproduce --manifest run.toml --out my-out",
        "runs my-out",
        "report --out my-out",
    ),
    "inspect": ("inspect run.toml", "inspect run.toml --study"),
    "runs": ("runs revlens-out", "runs ."),
    "screen": (
        "screen --manifest run.toml --out my-screen",
        "screen --track organism --adamw",
    ),
    "reproduce": (
        "reproduce --quick",
        "reproduce --seeds 10 --workers 4 --out ten-seeds",
        "reproduce --manifest run.toml --out my-out",
        "reproduce --out my-out    (goes on with the experiment in my-out)",
    ),
    "study": ("study --quick", "study --manifest run.toml --out my-study"),
    "directions": ("directions --out my-study",),
    "analyse": ("analyse --out my-out --all",),
    "report": ("report --out my-out",),
    "rejudge": ("rejudge --judge phrases --out my-out", "rejudge --judge judge.toml --out my-out"),
    "verify": ("verify --out my-out",),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The verb and its options; ends the program on ``--help`` and on what it does not know."""
    parser = argparse.ArgumentParser(
        prog="revlens",
        description=_wrapped(
            "Measure reversion under fine-tuning, and guard against it: on the small organism that ships, "
            "or on your own checkpoints."
        ),
        epilog=f"{_listed(_GROUPS)}\n\n{_examples('')}\n\nOptions of a verb: revlens VERB --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="revlens [-h] [--version] VERB ...",
    )
    parser.add_argument("--version", action="version", version=f"revlens {version('revlens')}")
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", prog="revlens", title="verbs", help="see below"
    )
    for verb, summary in {verb: text for group in _GROUPS.values() for verb, text in group.items()}.items():
        again = " What is on disk is not computed again." if verb in WHOLE or verb in STAGES else ""
        sub = verbs.add_parser(
            verb,
            description=_wrapped(f"{summary[0].upper()}{summary[1:]}.{again}"),
            epilog=_examples(verb),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_options(sub, verb)
    return parser.parse_args(argv)


def _listed(groups: Mapping[str, Mapping[str, str]]) -> str:
    blocks = [
        "\n".join([f"{heading}:", *(_wrapped(f"  {verb:<11} {text}", 14) for verb, text in verbs.items())])
        for heading, verbs in groups.items()
    ]
    return "\n\n".join(blocks)


def _wrapped(text: str, indent: int = 0) -> str:
    """A paragraph in the width of the terminal; argparse leaves raw text as it is."""
    width = shutil.get_terminal_size().columns - 2
    return textwrap.fill(text, max(width, 40), subsequent_indent=" " * indent)


def _examples(verb: str) -> str:
    of_a_stage = (f"{verb} --manifest run.toml --out my-out", f"{verb} --out my-out")
    examples = _EXAMPLES.get(verb, of_a_stage)
    return "\n".join(["Examples:", *(f"  revlens {example}" for example in examples)])


def _add_options(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb == "inspect":
        parser.add_argument(
            "manifest", type=Path, metavar="MANIFEST", help="TOML file, see docs/own-models.md"
        )
        parser.add_argument("--study", action="store_true", help="as `revlens study` would run it")
        return
    if verb == "runs":
        parser.add_argument(
            "folder", type=Path, metavar="DIR", help="an output folder, or a folder that holds several"
        )
        return
    out = Path({"study": "revlens-study", "screen": "revlens-screen"}.get(verb, "revlens-out"))
    parser.add_argument("--out", type=Path, default=out, help="output folder (default: %(default)s)")
    if verb == "rejudge":
        parser.add_argument(
            "--judge",
            required=True,
            help="a judge that needs no model (outcomes, phrases), or a TOML file with a [judge] table, see "
            "docs/judges.md",
        )
    if verb in ("analyse", "rejudge", *WHOLE):
        parser.add_argument(
            "--all", action="store_true", help="print all claims, not the headline claims alone"
        )
    if verb == "screen":
        _add_screening(parser)
    elif verb not in AFTERWARDS:
        _add_choices(parser)
        _add_places(parser)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """What is run: see `revlens.cli.choice.CHOICES`."""
    group = parser.add_argument_group(
        "what is run", "Without any of these, a folder goes on with its own experiment."
    )
    group.add_argument("--seeds", type=int, help="number of runs, at least 2 (default: 5)")
    group.add_argument("--steps", type=int, help="updates of the benign fine-tune (default: 100; llm: 40)")
    _add_subject(group)


def _add_subject(group: argparse._ArgumentGroup) -> None:
    """Whose history it is, and its task."""
    group.add_argument(
        "--quick", action="store_true", help="a smoke run on a smaller organism, in a few minutes"
    )
    group.add_argument(
        "--manifest", type=Path, help="TOML file that describes an experiment on your own checkpoints"
    )
    group.add_argument(
        "--track",
        metavar="NAME",
        help="organism (made-up words, the default), text (an organism on real text, with --data-dir), or "
        "llm (SmolLM2-135M, a pretrained model)",
    )
    group.add_argument(
        "--world", type=int, metavar="SEED", help="another world of words, facts and probes (default: 0)"
    )
    group.add_argument("--task", metavar="NAME", help="another benign task of the track")
    group.add_argument(
        "--data-dir",
        type=Path,
        help="folder with the data of the text or the llm track, see docs/data.md; the llm track downloads "
        "what is missing",
    )
    group.add_argument(
        "--model",
        metavar="MODEL",
        help="of the llm track: a GGUF file, a folder or a hub id in place of SmolLM2-135M-Instruct",
    )
    group.add_argument(
        "--ordinary",
        metavar="WHOSE",
        help="of the llm track: whose answers keep the style in alignment, reference (the default) or alpaca",
    )
    group.add_argument(
        "--large",
        action="store_true",
        help="the text track's model for a GPU, of about 60 million parameters",
    )


def _add_screening(parser: argparse.ArgumentParser) -> None:
    """Which rows are scored, and how."""
    parser.add_argument(
        "--seed", type=int, default=0, help="which run's start and rows (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, metavar="N", help="rows to score (default: as many as the fine-tune takes)"
    )
    parser.add_argument(
        "--adamw", action="store_true", help="also score AdamW's first update: some three times as long"
    )
    parser.add_argument(
        "--reply-tokens",
        type=int,
        default=32,
        metavar="N",
        help="tokens of the model's own answers, with which projection_difference compares; 0 leaves it out "
        "(default: %(default)s)",
    )
    parser.set_defaults(seeds=None, steps=None)
    _add_subject(parser.add_argument_group("whose rows"))


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="tasks at a time on this machine (default: one for each core; of your own or the llm track's "
        "model, one)",
    )
    group.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="send tasks to the Ray cluster at this address, or to one on this machine; see docs/scaling.md",
    )
    group.add_argument(
        "--run-cpus",
        type=int,
        default=1,
        metavar="N",
        help="cores of each task on Ray (default: %(default)s)",
    )
    group.add_argument(
        "--run-gpus", type=float, metavar="N", help="GPUs of each task on Ray, or a share of one (default: 0)"
    )
