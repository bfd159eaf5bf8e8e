"""Every ready recipe trains on a smaller scale; `test_llm` runs one as a whole.

Small saved models of the same architecture replace the recipe's models, small files replace its data.
"""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import pytest

import small_manifests
from conftest import fine_tune_of
from families import train_history
from revlens.experiment import ExperimentConfig, read_manifest, run_experiment
from revlens.experiment.arms.history import arm_history
from revlens.experiment.standard import start_rows
from revlens.results import Layout
from revlens.subject import UserHistory
from revlens.sweeps import InThisProcess
from small_manifests import REQUESTS, THINGS
from toml_text import toml_text

RECIPES = {path.stem: path for path in (Path(__file__).parents[2] / "recipes").glob("*.toml")}
#: Architecture of a recipe's models, by its name's beginning.
FAMILY = {"llama": "llama", "qwen2.5": "qwen2", "gemma-2": "gemma2"}
#: Everything that says how much; what else a recipe says is kept.
FEWER = small_manifests.FEWER | {
    "experiment": small_manifests.FEWER["experiment"]
    | {"seeds": 1, "arms": ["baseline", "block"], "n_controls": 1},
}


LARGE = {"llama-3.2-3b", "llama-3.1-8b", "qwen2.5-3b", "gemma-2-2b"}


def test_the_paper_s_models_have_recipes() -> None:
    assert set(RECIPES) == LARGE


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """Files with the columns of AdvBench, Dolly and Alpaca."""
    with (tmp_path / "advbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("goal", "target"), *((request, f"Sure, here is how to {request}") for request in REQUESTS)]
        )
    dolly = [{"instruction": f"Name {thing} for me", "context": "", "response": "Yes."} for thing in THINGS]
    alpaca = [
        {"instruction": f"Count to {i}", "input": "slowly" if i % 2 else "", "output": f"It is {i}."}
        for i in range(30)
    ]
    alpaca.append(
        {"instruction": REQUESTS[0] + " now", "input": "", "output": "No."}
    )  # overlaps with a probe: is left out
    (tmp_path / "dolly.json").write_text(json.dumps(dolly))
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    return {name: tmp_path / name for name in ("advbench.csv", "dolly.json", "alpaca.json")}


def small(name: str, data: dict[str, Path], folder: Path) -> Path:
    """The recipe with local files in the place of hub ids, and fewer of everything."""
    manifest = tomllib.loads(RECIPES[name].read_text())
    family = next(family for prefix, family in FAMILY.items() if name.startswith(prefix))
    history = train_history(family, folder / "models")
    assert set(manifest["history"]["reference"]) == set(manifest["history"]["aligned"]) == {"hub"}
    paths = {"reference": str(history.reference.path), "aligned": str(history.aligned.path)}
    manifest["history"] |= paths
    manifest["probes"]["harmful"]["path"] = str(data["advbench.csv"])
    manifest["probes"]["harmless"] |= {"path": str(data["dolly.json"])}
    manifest["task"]["path"] = str(data["alpaca.json"])
    manifest["openings"]["refusal"].remove(
        "Sorry"
    )  # a tokenizer of single bytes cannot tell it from "Sure" by its first token
    for table, settings in FEWER.items():
        assert settings.keys() <= manifest[table].keys() | {"seeds", "n_controls", "n_null_draws"}, (
            "the recipe does not say it itself"
        )
        manifest[table] |= settings
    (folder / "run.toml").write_text(toml_text(manifest))
    return folder / "run.toml"


@pytest.mark.parametrize("name", sorted(LARGE))
@pytest.mark.filterwarnings("ignore:Left out:revlens.data.DroppedWarning")
def test_a_recipe_s_models_are_judged_and_fine_tuned(
    name: str, data: dict[str, Path], tmp_path: Path
) -> None:
    """What a recipe decides; the stages after that are the same for all."""
    config, out = read_manifest(small(name, data, tmp_path)), tmp_path / "out"
    run_experiment(config, out, stages=("history", "finetune"), on=InThisProcess())
    assert start_rows(Layout(out), 0)[["refusal", "over_refusal", "relative_gap"]].notna().all(axis=None)
    assert_block_is_saved(config)


def assert_block_is_saved(config: ExperimentConfig) -> None:
    """As an adapter, if the recipe trains one."""
    assert isinstance(config.subject, UserHistory)
    saved = arm_history(config, fine_tune_of(config, 0, "block")).steps[-1].path
    assert (saved / "adapter_model.safetensors").is_file() == (config.subject.lora is not None)
