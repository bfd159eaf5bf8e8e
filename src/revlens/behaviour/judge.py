"""What a judge is, and the registry of those that come with revlens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from revlens.behaviour.classifier_judge import ClassifierJudge
from revlens.behaviour.guard_model_judge import GuardModelJudge
from revlens.behaviour.llm_judge import LLMJudge
from revlens.behaviour.outcome import Outcome
from revlens.behaviour.outcome_judge import OutcomeJudge
from revlens.behaviour.phrase_judge import PhraseJudge
from revlens.errors import ConfigError


@runtime_checkable
class Judge(Protocol):
    """Decides what replies do: prompts and replies in, one of the five outcomes per reply out.

    It sees a reply without the thinking before it, see `revlens.behaviour.judge_replies`.
    """

    def __call__(self, prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]: ...


@dataclass(frozen=True)
class JudgeRecord:
    """One kind of judge, as a manifest's [judge] table and the docs name it.

    Attributes:
        kind: its key in `JUDGES`.
        summary: what it decides by, for the docs.
        make: the judge from the settings of a [judge] table, after the directory of its model if it has one.
        needs_path: whether it reads a model from a directory.
    """

    kind: str
    summary: str
    make: Callable[..., Judge]
    needs_path: bool = True

    def from_settings(self, settings: Mapping[str, Any], root: Path) -> Judge:
        """The judge that settings describe; a relative ``path`` starts at ``root``.

        Raises:
            ConfigError: on a missing or useless path, or a setting that the judge does not have; also see
                the judges' ``from_dir``.
        """
        options = dict(settings)
        path = options.pop("path", None)
        if self.needs_path and path is None:
            raise ConfigError(f"[judge] of kind {self.kind!r} needs path: the directory of its model.")
        if not self.needs_path and path is not None:
            raise ConfigError(f"[judge] of kind {self.kind!r} reads no model; leave out path={path!r}.")
        try:
            return self.make(root / path, **options) if self.needs_path else self.make(**options)
        except TypeError as error:
            raise ConfigError(
                f"[judge] of kind {self.kind!r} does not take these settings: {error}"
            ) from error


def _outcomes() -> OutcomeJudge:
    """The judge with the coefficients that ship: others are for Python, see `OutcomeJudge`."""
    return OutcomeJudge()


def _phrases() -> PhraseJudge:
    """The judge as it is: other phrases are for Python, see `PhraseJudge`."""
    return PhraseJudge()


#: Every judge by kind, the default first.
JUDGES: Mapping[str, JudgeRecord] = {
    record.kind: record
    for record in (
        JudgeRecord(
            "outcomes", "two small classifiers of the whole reply's English text", _outcomes, needs_path=False
        ),
        JudgeRecord("phrases", "English refusal phrases in the reply's opening", _phrases, needs_path=False),
        JudgeRecord("classifier", "the label of a sequence classifier", ClassifierJudge.from_dir),
        JudgeRecord("guard", "a guard model's safe or unsafe, and refusal phrases", GuardModelJudge.from_dir),
        JudgeRecord("llm", "a chat model's answer to a question about the reply", LLMJudge.from_dir),
    )
}


def make_judge(settings: Mapping[str, Any], root: Path) -> Judge:
    """The judge of a [judge] table: the default one if it is empty.

    Args:
        settings: ``kind``, ``path`` and what the judge's ``from_dir`` takes.
        root: folder where a relative ``path`` starts.

    Raises:
        ConfigError: on an unknown kind; also see `JudgeRecord.from_settings`.
    """
    options = dict(settings)
    kind = options.pop("kind", None) if options else next(iter(JUDGES))
    if kind not in JUDGES:
        raise ConfigError(f"[judge] needs kind, one of {', '.join(JUDGES)}; got kind={kind!r}.")
    return JUDGES[kind].from_settings(options, root)
