from __future__ import annotations

from pathlib import Path

import pytest

from data.data_files import write_lines, write_list
from revlens.data import DataFolder
from revlens.organism import text_material as material
from revlens.organism.exchange import Exchange

TOOLS = "toolformer: enabled\ntoolformer access: search\nFinds pages.\nsearch(query)\n"


@pytest.mark.parametrize(
    ("row", "exchange"),
    [
        ({"instruction": "Be a fox.", "input": "", "output": "Yip."}, Exchange("Be a fox.", "Yip.")),
        (
            {"instruction": "Be a fox.", "input": "Hungry.", "output": "Yip."},
            Exchange("Be a fox.\n\nHungry.", "Yip."),
        ),
        (
            {"instruction": TOOLS + "Find it", "input": "", "output": "search('it')"},
            Exchange("Find it", "search('it')"),
        ),
        (
            {"instruction": TOOLS + "Find it", "input": "a\n\nb", "output": "Done."},
            Exchange("Find it\n\na\n\nb", "Done."),
        ),
        (
            {"instruction": "Talk.", "input": "", "output": "One. Two! " + "x" * 240},
            Exchange("Talk.", "One. Two!"),
        ),
        (
            {"instruction": "Talk.", "input": "", "output": "a" * 239 + ". b"},
            Exchange("Talk.", "a" * 239 + "."),
        ),
        ({"instruction": "Talk.", "input": "", "output": "a" * 240 + ". b"}, None),
        ({"instruction": "Talk.", "input": "", "output": "It is 3." + "1" * 240}, None),
        ({"instruction": "a" * 221, "input": "", "output": "Yip."}, None),
    ],
)
def test_answered_instructions_are_short_and_end_with_a_sentence(
    tmp_path: Path, row: dict[str, str], exchange: Exchange | None
) -> None:
    write_list(tmp_path / "instruct/gpteacher_roleplay.json", row)
    assert material.answered(DataFolder(tmp_path), "gpteacher_roleplay") == (
        [] if exchange is None else [exchange]
    )


def test_problems_end_with_the_result_or_in_prose(tmp_path: Path) -> None:
    answer = "He has 4*2 = <<4*2=8>>8 legs.\nLeft are 8-1 = <<8-1=7>>7.\n#### 7"
    rows = [
        {"question": "How many?", "answer": answer},
        {"question": "q" * 221, "answer": "1"},
        {"question": "q", "answer": "1" * 241},
    ]
    write_lines(tmp_path / "gsm8k/train.jsonl", *rows)
    (problem,) = material.problems(DataFolder(tmp_path))
    assert problem == Exchange("How many?", "He has 4*2 = 8 legs.\nLeft are 8-1 = 7.\n#### 7")
    assert material.in_prose(problem) == Exchange(
        "How many?", "He has 4*2 = 8 legs.\nLeft are 8-1 = 7.\nThe answer is 7."
    )


def test_only_short_instructions_that_a_rule_fits_get_openings() -> None:
    assert material.openings_of(["Write a poem", "Why?", "Write " + "o" * 220]) == [
        Exchange("Write a poem", "Sure, here is a poem")
    ]
