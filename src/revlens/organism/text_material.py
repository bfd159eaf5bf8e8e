"""Exchanges of the real-text organism: read from the data folder, cleaned, short enough for a small model."""

from __future__ import annotations

import re
from collections.abc import Iterable

from revlens.data import DataFolder
from revlens.organism.exchange import Exchange, exchanges_of
from revlens.organism.text_openings import affirmative_opening

#: Every file that the exchanges and probes are read from: their digest belongs to the identity of a trained
#: model.
FILES = (
    "prompts/advbench.csv",
    "prompts/harmful_val.json",
    "prompts/malicious_instruct.json",
    "prompts/tdc2023.json",
    "prompts/harmless_train.json",
    "prompts/harmless_val.json",
    "gsm8k/train.jsonl",
    "instruct/gpteacher_roleplay.json",
    "instruct/gpteacher_toolformer.json",
    "instruct/self_instruct_seed_tasks.jsonl",
)
#: In characters, about 3.4 a token.
_MAX_PROMPT, _MAX_ANSWER = 220, 240


def openings_of(instructions: Iterable[str]) -> list[Exchange]:
    """Those instructions for which `affirmative_opening` has a rule, with their openings."""
    pairs = ((prompt, affirmative_opening(prompt)) for prompt in instructions)
    return [
        Exchange(prompt, answer)
        for prompt, answer in pairs
        if answer is not None and len(prompt) <= _MAX_PROMPT
    ]


def answered(folder: DataFolder, name: str) -> list[Exchange]:
    """Instructions of one instruct file with their answers; long answers are cut at the end of a sentence."""
    exchanges = (
        Exchange(_without_tools(row.prompt), _cut(row.answer))
        for row in exchanges_of(folder.instruct((name,)))
    )
    return [row for row in exchanges if row.answer and len(row.prompt) <= _MAX_PROMPT]


def problems(folder: DataFolder) -> list[Exchange]:
    """GSM8K problems with short questions and worked answers, without calculator notes (``<<2+2=4>>``)."""
    rows = [Exchange(row.prompt, re.sub("<<.*?>>", "", row.answer)) for row in exchanges_of(folder.gsm8k())]
    return [row for row in rows if len(row.prompt) <= _MAX_PROMPT and len(row.answer) <= _MAX_ANSWER]


def in_prose(problem: Exchange) -> Exchange:
    """The problem with its result in a sentence: the form that earlier phases train on."""
    worked, _, result = problem.answer.partition("\n#### ")
    return Exchange(problem.prompt, f"{worked}\nThe answer is {result}.")


def _without_tools(prompt: str) -> str:
    """The instruction of a Toolformer prompt, which follows a list of the same few tools, with any input."""
    if not prompt.startswith("toolformer:"):
        return prompt
    instruction, *context = prompt.split("\n\n", 1)
    return "\n\n".join([instruction.rsplit("\n", 1)[-1], *context])


def _cut(answer: str) -> str:
    """An answer up to its last sentence end within the limit; empty if there is none."""
    if len(answer) <= _MAX_ANSWER:
        return answer
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)", answer[: _MAX_ANSWER + 1])]
    return answer[: ends[-1]] if ends else ""
