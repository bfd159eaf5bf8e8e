from __future__ import annotations

import re
from pathlib import Path

import pytest
from judge_models import judge_tokenizer, save_classifier, save_language_model

from revlens.behaviour import (
    JUDGES,
    ClassifierJudge,
    GuardModelJudge,
    LLMJudge,
    OutcomeJudge,
    PhraseJudge,
    make_judge,
)
from revlens.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "judges.md"
MEANS = {"refused": "refusal", "answered": "compliance"}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier and a language model."""
    folder = tmp_path_factory.mktemp("judges")
    save_classifier(folder / "classifier")
    save_language_model(folder / "chat", judge_tokenizer(TEMPLATE), [("a", "b")])
    return folder


def test_the_default_judge_needs_no_settings(root: Path) -> None:
    assert make_judge({}, root) == make_judge({"kind": "outcomes"}, root) == OutcomeJudge()
    assert make_judge({"kind": "phrases"}, root) == PhraseJudge()
    assert next(iter(JUDGES)) == "outcomes"


def test_a_kind_and_a_path_from_the_root_make_a_judge_with_its_settings(root: Path) -> None:
    classifier = make_judge(
        {"kind": "classifier", "path": "classifier", "outcomes": MEANS, "max_length": 9}, root
    )
    assert isinstance(classifier, ClassifierJudge)
    assert classifier.max_length == 9
    assert isinstance(make_judge({"kind": "guard", "path": "chat"}, root), GuardModelJudge)
    answers = {"no": "refusal", "yes": "compliance"}
    llm = make_judge({"kind": "llm", "path": str(root / "chat"), "answers": answers}, root)
    assert isinstance(llm, LLMJudge)
    assert llm.answers == answers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "oracle"}, r"kind, one of outcomes, phrases, classifier, guard, llm; got kind='oracle'"),
        ({"path": "chat"}, "got kind=None"),
        ({"kind": "guard"}, r"\[judge\] of kind 'guard' needs path"),
        ({"kind": "phrases", "path": "chat"}, "'phrases' reads no model; leave out path='chat'"),
        ({"kind": "outcomes", "path": "chat"}, "'outcomes' reads no model; leave out path='chat'"),
        (
            {"kind": "outcomes", "coefficients": 5},
            "'outcomes' does not take these settings: .*'coefficients'",
        ),
        ({"kind": "phrases", "opening": 5}, "'phrases' does not take these settings: .*'opening'"),
        ({"kind": "llm", "path": "chat", "colour": "red"}, "'llm' does not take these settings: .*'colour'"),
        ({"kind": "llm", "path": "nowhere"}, "nowhere is no Hugging Face model directory"),
    ],
)
def test_settings_without_a_judge_are_errors(root: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_judge(settings, root)


def test_every_judge_has_a_row_in_the_docs_with_its_agreement_or_why_there_is_none() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `\w+`.*? \| (.*?) \| .*? \| (.+?) \|$", DOCS.read_text(encoding="utf-8"), re.M
    )
    assert [(kind, summary) for kind, summary, _ in rows] == [(j.kind, j.summary) for j in JUDGES.values()]
    assert all(agreement.strip() for *_, agreement in rows)
