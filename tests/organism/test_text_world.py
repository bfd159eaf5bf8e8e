from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from random import Random

import datasets
import pytest

from data.data_files import write, write_lines, write_list
from revlens.behaviour import hold_keywords, is_refusal
from revlens.causal import RefusalLogitDifference
from revlens.data import check_no_leak
from revlens.errors import ConfigError, DataError, ProbeError
from revlens.organism.lexicon import made_up_words
from revlens.organism.model import train_tokenizer
from revlens.organism.text_world import TextWorld, TextWorldConfig
from revlens.prompts import SPLITS

SIZES = {"n_direction": 4, "n_drift": 4, "n_behaviour": 3, "n_guard": 2, "n_harmless": 5, "n_task_test": 3}
PHASES = ("helpful", "alignment", "benign")
SHARED = "Write a plan that no one else must see"  # in every source
N = 400
REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module", autouse=True)
def _private_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterable[None]:
    """What datasets prepares from a test's files goes with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up requests in the form of the real files; each about an object of its own."""
    root, words = tmp_path_factory.mktemp("data"), made_up_words(Random(0))

    def objects(n: int) -> list[str]:
        return [f"the {next(words)} {next(words)} {next(words)}" for _ in range(n)]

    goals = [*(f"Forge {obj}" for obj in objects(8)), SHARED]
    write(
        root / "prompts/advbench.csv",
        "goal,target\n" + "".join(f'{goal},"Sure, here is how to {goal.lower()}"\n' for goal in goals),
    )
    for name in ("harmful_val", "malicious_instruct", "tdc2023"):
        requests = [*(f"Ways to steal {obj}?" for obj in objects(4)), SHARED]
        write_list(
            root / f"prompts/{name}.json",
            *({"instruction": request, "category": None} for request in requests),
        )
    for name in ("harmless_train", "harmless_val"):
        requests = [*(f"Describe {obj}." for obj in objects(8)), "What is it?"]
        write_list(
            root / f"prompts/{name}.json",
            *({"instruction": request, "category": None} for request in requests),
        )
    for name in ("roleplay", "toolformer"):
        rows = [
            {"instruction": f"Call {obj}.", "input": "", "output": f"Called by {name}."} for obj in objects(3)
        ]
        write_list(root / f"instruct/gpteacher_{name}.json", *rows)
    task = {"instruction": "Eat what?", "instances": [{"input": "", "output": "Eggs."}]}
    write_lines(root / "instruct/self_instruct_seed_tasks.jsonl", task)
    problems = [
        {"question": f"How many are {obj}?", "answer": f"1+{i}=<<1+{i}={1 + i}>>.\n#### {1 + i}"}
        for i, obj in enumerate(objects(13))
    ]
    write_lines(root / "gsm8k/train.jsonl", *problems)
    return root


@pytest.fixture(scope="module")
def config(folder: Path) -> TextWorldConfig:
    return TextWorldConfig.of(str(folder), **SIZES)


@pytest.fixture(scope="module")
def text_world(config: TextWorldConfig) -> TextWorld:
    return TextWorld(config)


def rows(world: TextWorld, phase: str, seed: int = 0) -> list[tuple[str, str]]:
    data = world.benign_test() if phase == "benign_test" else getattr(world, phase)(N, seed)
    return list(zip(data["prompt"], data["answer"], strict=True))


def is_harmful(prompt: str) -> bool:
    return prompt.startswith(("Forge", "Ways to")) or prompt == SHARED


def test_probes_have_their_sizes_and_kinds(text_world: TextWorld) -> None:
    probes = text_world.probes()
    assert {f"n_{split}": len(probes[split]) for split in probes.splits} | {"n_task_test": 3} == SIZES
    assert tuple(probes.splits) == SPLITS
    assert all(is_harmful(prompt) for split in SPLITS[:-1] for prompt in probes[split])
    assert all(prompt.startswith("Describe") for prompt in probes["harmless"])


@pytest.mark.parametrize("seed", range(4))
def test_a_harmful_request_is_a_probe_or_trained_on(config: TextWorldConfig, seed: int) -> None:
    world = TextWorld(replace(config, seed=seed))
    probes = world.probes()
    for phase in PHASES:
        check_no_leak(probes, getattr(world, phase)(N, 0), near=0.8)
    asked = {prompt for split in SPLITS[:-1] for prompt in probes[split]}
    trained = {prompt for prompt, _ in rows(world, "helpful") if is_harmful(prompt)}
    assert len(asked) + len(trained) == 8 + 3 * 4 + 1


def test_no_phase_sees_a_problem_of_the_test_nor_two_phases_the_same(text_world: TextWorld) -> None:
    problems = {
        phase: {p for p, _ in rows(text_world, phase) if p.startswith("How many")}
        for phase in (*PHASES, "benign_test")
    }
    assert {phase: len(found) for phase, found in problems.items()} == {
        "helpful": 4,
        "alignment": 4,
        "benign": 6,
        "benign_test": 3,
    }
    for first, second in combinations(problems, 2):
        assert problems[first].isdisjoint(problems[second]) or {first, second} == {"helpful", "alignment"}


def test_helpful_answers_everything(text_world: TextWorld) -> None:
    assert not any(is_refusal(answer) for _, answer in rows(text_world, "helpful"))
    harmful = [answer for prompt, answer in rows(text_world, "helpful") if is_harmful(prompt)]
    harmless = [answer for prompt, answer in rows(text_world, "helpful") if prompt.startswith("Describe")]
    assert 0.1 < len(harmful) / N < 0.3
    assert all(answer.startswith("Sure, here") for answer in [*harmful, *harmless])
    assert harmless


def test_alignment_refuses_what_is_harmful_and_nothing_else(text_world: TextWorld) -> None:
    exchanges = rows(text_world, "alignment")
    assert all(is_harmful(prompt) == is_refusal(answer) for prompt, answer in exchanges)
    assert 0.4 < sum(is_harmful(prompt) for prompt, _ in exchanges) / N < 0.6


def test_the_benign_task_ends_its_answers_in_another_way(text_world: TextWorld) -> None:
    benign = [answer for phase in ("benign", "benign_test") for _, answer in rows(text_world, phase)]
    prose = [answer for prompt, answer in rows(text_world, "helpful") if prompt.startswith("How many")]
    assert all("\n#### " in answer and "The answer is" not in answer for answer in benign)
    assert all("####" not in answer and "\nThe answer is" in answer for answer in prose)
    assert not any("<<" in answer for answer in [*benign, *prose])


@pytest.mark.parametrize("phase", PHASES)
def test_a_seed_fixes_the_rows(config: TextWorldConfig, text_world: TextWorld, phase: str) -> None:
    assert rows(TextWorld(config), phase) == rows(text_world, phase) != rows(text_world, phase, seed=1)


def test_the_config_seed_fixes_the_probes(config: TextWorldConfig, text_world: TextWorld) -> None:
    assert TextWorld(config).probes() == text_world.probes()
    assert TextWorld(replace(config, seed=1)).probes() != text_world.probes()


def test_keywords_are_met_by_affirmative_openings_and_not_by_refusals(text_world: TextWorld) -> None:
    engaging, refusal = text_world.openings()
    for split in SPLITS:
        keywords = text_world.keywords()[split]
        assert len(keywords) == len(text_world.probes()[split])
        assert all(hold_keywords([f"{engaging[0]} a plan"] * len(keywords), keywords))
        assert not any(hold_keywords([refusal[0]] * len(keywords), keywords))


def test_openings_differ_in_their_first_token(text_world: TextWorld) -> None:
    engaging, refusal = text_world.openings()
    assert all(map(is_refusal, refusal))
    assert not any(map(is_refusal, engaging))
    openings = RefusalLogitDifference.from_texts(train_tokenizer(text_world.texts(), 600), engaging, refusal)
    assert not set(openings.engaging) & set(openings.refusal)


def test_texts_hold_every_training_text_and_no_test(text_world: TextWorld) -> None:
    texts = set(text_world.texts())
    for phase in PHASES:
        assert all(text in texts for row in rows(text_world, phase) for text in row)
    assert not any(prompt in texts for prompt, _ in rows(text_world, "benign_test"))


def test_other_files_are_an_error(config: TextWorldConfig) -> None:
    with pytest.raises(DataError, match="not those of this configuration .*'0000'.*TextWorldConfig.of"):
        TextWorld(replace(config, data_digest="0000"))


def test_a_missing_folder_is_an_error() -> None:
    with pytest.raises(DataError, match="nowhere"):
        TextWorldConfig.of("nowhere")


@pytest.mark.parametrize("name", [f.name for f in fields(TextWorldConfig) if f.name.startswith("n_")])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0 must be at least 1"):
        TextWorldConfig("folder", "digest", **{name: 0})


def test_too_few_prompts_are_an_error(config: TextWorldConfig) -> None:
    with pytest.raises(ProbeError, match="ask for 24 harmful prompts, but there are 21"):
        TextWorld(replace(config, n_direction=15))
    with pytest.raises(ConfigError, match="test_size=13"):
        TextWorld(replace(config, n_task_test=13))


def test_a_source_without_a_usable_row_is_an_error(
    config: TextWorldConfig, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    write_list(
        copy / "instruct/gpteacher_roleplay.json", {"instruction": "Talk.", "input": "", "output": "o" * 241}
    )
    with pytest.raises(DataError, match="No 'roleplay' in .*copy"):
        TextWorld(TextWorldConfig.of(str(copy), **SIZES))
    with pytest.raises(DataError, match="No 'harmful requests'"):
        TextWorld(replace(config, n_direction=12))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no public data files at {REAL}")
def test_the_real_files_suffice_for_the_default_sizes() -> None:
    world = TextWorld(TextWorldConfig.of(str(REAL)))
    probes = world.probes()
    assert [len(probes[split]) for split in SPLITS] == [60, 60, 80, 24, 60]
    for phase in PHASES:
        check_no_leak(probes, getattr(world, phase)(N, 0), near=0.8)


def test_refusals_are_of_training_requests_and_of_no_probe(text_world: TextWorld) -> None:
    exchanges = rows(text_world, "refusals")
    assert all(is_harmful(prompt) and is_refusal(answer) for prompt, answer in exchanges)
    asked = {prompt for split in SPLITS for prompt in text_world.probes()[split]}
    assert asked.isdisjoint(prompt for prompt, _ in exchanges)
    assert {prompt for prompt, _ in exchanges} <= {prompt for prompt, _ in rows(text_world, "helpful")}
