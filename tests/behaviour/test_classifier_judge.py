from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from judge_models import TESTING, save_classifier

from revlens.behaviour import ClassifierJudge, Judge, Outcome, refusal_rate
from revlens.errors import ConfigError, ProbeError

PROMPTS, REPLIES, REFUSED = (list(column) for column in zip(*TESTING, strict=True))
OUTCOMES = ["refusal" if refused else "compliance" for refused in REFUSED]
MEANS: dict[str, Outcome] = {"refused": "refusal", "answered": "compliance"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier")
    save_classifier(path)
    return path


def test_the_outcome_of_a_reply_is_what_its_label_means(classifier: Path) -> None:
    judge = ClassifierJudge.from_dir(classifier, MEANS, max_length=48)
    assert isinstance(judge, Judge)
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert refusal_rate(PROMPTS, REPLIES, judge) == 0.4
    turned: dict[str, Outcome] = {"refused": "deflection", "answered": "mixed"}
    other = ClassifierJudge.from_dir(classifier, turned, max_length=48)
    assert other(PROMPTS, REPLIES) == ["deflection" if refused else "mixed" for refused in REFUSED]
    assert judge([], []) == []


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batches_and_order_do_not_matter(classifier: Path, batch_size: int) -> None:
    judge = ClassifierJudge.from_dir(classifier, MEANS, max_length=48, batch_size=batch_size)
    assert judge(PROMPTS, REPLIES) == OUTCOMES
    assert judge(PROMPTS[::-1], REPLIES[::-1]) == OUTCOMES[::-1]


def test_a_template_puts_prompt_and_reply_in_one_text(classifier: Path) -> None:
    pairs = ClassifierJudge.from_dir(classifier, MEANS, max_length=48)
    judge = ClassifierJudge.from_dir(classifier, MEANS, template="{reply}", max_length=48)
    text = judge.tokenizer("I cannot {prompt} help.")["input_ids"]
    assert judge.tokenizer(*judge._texts([("Why?", "I cannot {prompt} help.")]))["input_ids"] == [text]
    assert len(judge(PROMPTS, REPLIES)) == len(REPLIES)
    both = ClassifierJudge.from_dir(classifier, MEANS, template="{prompt}{reply}", max_length=48)
    assert both._texts([("{reply} {x}", "Sure {prompt}.")]) == (["{reply} {x}Sure {prompt}."],)
    assert pairs._texts([("a", "b"), ("c", "d")]) == (["a", "c"], ["b", "d"])


def test_a_long_reply_loses_its_end(classifier: Path) -> None:
    judge = ClassifierJudge.from_dir(classifier, MEANS, max_length=48)  # all the positions that the model has
    long = [reply + " the old hinge" * 100 for reply in REPLIES]
    verdicts = judge(PROMPTS, long)
    assert judge(PROMPTS, [f"{reply} I cannot help." for reply in long]) == verdicts
    assert judge(PROMPTS, [f"{reply} Sure, take glue." for reply in long]) == verdicts


def test_loading_draws_and_changes_nothing(classifier: Path) -> None:
    state = torch.get_rng_state()
    judge = ClassifierJudge.from_dir(classifier, MEANS, max_length=48)
    assert judge(PROMPTS, REPLIES) == judge(PROMPTS, REPLIES)
    assert torch.equal(torch.get_rng_state(), state)
    assert not judge.model.training


def test_every_label_of_the_model_has_an_outcome(classifier: Path) -> None:
    for labels in ({}, {"refusal": "refusal"}, {"refused": "refusal"}, {**MEANS, "other": "mixed"}):
        with pytest.raises(ConfigError, match="each of the classifier's labels: answered, refused"):
            ClassifierJudge.from_dir(classifier, labels)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must name two or more of refusal, mixed"):
        ClassifierJudge.from_dir(classifier, {"refused": "refusal", "answered": "refusal"})


def test_a_batch_holds_something(classifier: Path) -> None:
    for size in (0, -1):
        with pytest.raises(ConfigError, match=f"batch_size={size} must be at least 1"):
            ClassifierJudge.from_dir(classifier, MEANS, batch_size=size)(PROMPTS, REPLIES)


def test_the_template_must_take_the_reply(classifier: Path) -> None:
    with pytest.raises(ConfigError, match=r"'Refused\? \{prompt\}' has no \{reply\}"):
        ClassifierJudge.from_dir(classifier, MEANS, template="Refused? {prompt}")


def test_every_reply_needs_its_prompt(classifier: Path) -> None:
    judge = ClassifierJudge.from_dir(classifier, MEANS)
    with pytest.raises(ProbeError, match="got 1 prompts and 2 replies"):
        judge(["a"], ["b", "c"])


def test_directories_without_a_safe_classifier_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no config.json"):
        ClassifierJudge.from_dir(tmp_path, MEANS)
    unsafe = tmp_path / "unsafe"
    shutil.copytree(classifier, unsafe)
    (unsafe / "model.safetensors").rename(unsafe / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="does not read pickled ones"):
        ClassifierJudge.from_dir(unsafe, MEANS)


def test_a_checkpoint_without_a_classifiers_head_is_refused(classifier: Path, tmp_path: Path) -> None:
    judge = ClassifierJudge.from_dir(classifier, MEANS)
    judge.model.bert.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    judge.tokenizer.save_pretrained(tmp_path)
    config = json.loads((classifier / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"no weights for classifier.bias, classifier.weight"):
        ClassifierJudge.from_dir(tmp_path, MEANS)


def test_a_tokenizer_without_padding_is_refused(classifier: Path) -> None:
    judge = ClassifierJudge.from_dir(classifier, MEANS)
    judge.tokenizer.pad_token = None
    with pytest.raises(ConfigError, match="set tokenizer.pad_token"):
        ClassifierJudge(judge.model, judge.tokenizer, MEANS)
