"""Which experiment a command line chooses, and where its tasks go."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Literal

from revlens.cli.arguments import WHOLE
from revlens.errors import ConfigError
from revlens.experiment import (
    ORDINARY,
    PLANS,
    ExperimentConfig,
    Guards,
    default_backend,
    llm_experiment,
    organism_experiment,
    read_manifest,
)
from revlens.results import Layout
from revlens.subject import cache_root
from revlens.sweeps import RayCluster, Resources

#: Options that choose the experiment; without any of them a folder's own one goes on.
CHOICES = (
    "quick",
    "seeds",
    "steps",
    "manifest",
    "track",
    "data_dir",
    "model",
    "ordinary",
    "large",
    "world",
    "task",
)
#: The track of a language model; the others are organisms.
_LLM = "llm"
#: Options that only one kind of track has.
_OF_LLM, _OF_ORGANISMS = ("model", "ordinary"), ("large", "world")


def chosen_config(args: argparse.Namespace) -> ExperimentConfig:
    """The folder's own experiment, or the one that the options choose.

    Raises:
        ConfigError: if options contradict one another, the folder or the track, or there are too few runs;
            see also `revlens.experiment`.
    """
    stored = Layout(args.out).config
    given = {name: getattr(args, name) for name in CHOICES}
    chosen = [name for name, value in given.items() if value is not None and value is not False]
    if stored.is_file() and not chosen:
        return _of_plan(ExperimentConfig.load(stored), args)
    study = args.verb == "study"
    if args.manifest:
        if len(chosen) > 1:
            others = " and --".join(name.replace("_", "-") for name in chosen if name != "manifest")
            raise ConfigError(f"--manifest says everything; --{others} cannot be added.")
        date = ExperimentConfig.load(stored).template_date if stored.is_file() else None
        return read_manifest(args.manifest, study=study, template_date=date)
    config = _of_track(args, chosen, study=study)
    if args.seeds is not None:
        if args.seeds < 2:
            raise ConfigError(f"--seeds {args.seeds}: at least 2 runs are needed for an interval over runs.")
        config = config.with_seeds(args.seeds)
    if args.steps is not None:
        config = config.with_steps(args.steps)
    if study and args.track != _LLM:
        config = config.with_plan(Guards.quick(config) if args.quick else Guards.of(config))
    return config


def _of_track(args: argparse.Namespace, chosen: Sequence[str], *, study: bool) -> ExperimentConfig:
    """The experiment of the track that the options name, of its size."""
    llm = args.track == _LLM
    if misplaced := [name for name in (_OF_ORGANISMS if llm else _OF_LLM) if name in chosen]:
        options = " and ".join(f"--{name}" for name in misplaced)
        raise ConfigError(f"The track {args.track or 'organism'} has no {options}.")
    if llm:
        return llm_experiment(
            "quick" if args.quick else "default",
            model=args.model,
            data_dir=args.data_dir,
            task=args.task,
            ordinary=args.ordinary or ORDINARY[0],
            study=study,
        )
    if args.quick and args.large:
        raise ConfigError("A smoke run is on a small model: leave out --quick or --large.")
    size: Literal["default", "quick", "large"] = (
        "quick" if args.quick else "large" if args.large else "default"
    )
    return organism_experiment(args.track or "organism", size, args.data_dir, args.world or 0, args.task)


def _of_plan(config: ExperimentConfig, args: argparse.Namespace) -> ExperimentConfig:
    if args.verb in WHOLE and WHOLE[args.verb] != config.plan.name:
        verb = PLANS[config.plan.name].verb
        raise ConfigError(
            f"{args.out} holds an experiment of `revlens {verb}`; choose another --out for `revlens "
            f"{args.verb}`."
        )
    return config


def where(args: argparse.Namespace, config: ExperimentConfig) -> dict[str, Any]:
    """Where tasks go, as `revlens.experiment.run_experiment` takes it.

    Raises:
        ConfigError: on options of Ray without Ray, or no number of GPUs for a model that may be large.
    """
    if args.ray is None:
        if args.run_gpus is not None or args.run_cpus != 1:
            raise ConfigError("--run-cpus and --run-gpus are for runs on Ray; add --ray.")
        return {"on": default_backend(config, args.workers)}
    if args.run_gpus is None and not config.subject.parallel:
        raise ConfigError(
            "The model may be large: say with --run-gpus how many GPUs a run takes on Ray (0 for none)."
        )
    cache = cache_root().resolve()
    address = None if args.ray == "local" else args.ray
    cluster = RayCluster(
        address, args.workers, shared=(args.out, cache), environment={"REVLENS_CACHE": str(cache)}
    )
    return {
        "on": cluster,
        "resources": Resources(n_cpus=float(args.run_cpus), n_gpus=args.run_gpus or 0.0),
    }
