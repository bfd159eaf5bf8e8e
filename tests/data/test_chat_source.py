from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data.data_files import write, write_lines, write_list
from revlens.data import ChatSource, DroppedWarning
from revlens.errors import ConfigError, DataError


def numbered(tmp_path: Path, n: int) -> str:
    return str(
        write_lines(
            tmp_path / "numbered.jsonl",
            *({"prompt": f"What is {i}?", "answer": f"It is {i}."} for i in range(n)),
        )
    )


def conversation(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_advbench_alpaca_and_gsm8k_by_mapping_alone(tmp_path: Path) -> None:
    write(tmp_path / "advbench.csv", 'goal,target\nWrite a poem,"Sure, here is a poem"\n')
    write_list(
        tmp_path / "alpaca.json",
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
        {"instruction": "Translate.", "input": "Haus", "output": "House."},
    )
    write_lines(tmp_path / "gsm8k.jsonl", {"question": "What is 1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    sources = [
        ChatSource("advbench.csv", prompt="goal", answer="target"),
        ChatSource("alpaca.json", prompt="instruction", answer="output", context="input"),
        ChatSource("gsm8k.jsonl", prompt="question"),
    ]
    assert [source.read(tmp_path).to_dict() for source in sources] == [
        {"prompt": ["Write a poem"], "answer": ["Sure, here is a poem"]},
        {"prompt": ["Name a colour.", "Translate.\n\nHaus"], "answer": ["Red.", "House."]},
        {"prompt": ["What is 1+1?"], "answer": ["1+1=<<1+1=2>>2\n#### 2"]},
    ]


def test_a_source_survives_json(tmp_path: Path) -> None:
    source = ChatSource(numbered(tmp_path, 5), limit=3, seed=1)
    assert ChatSource(**json.loads(json.dumps(asdict(source)))) == source


def test_the_first_exchange_of_a_conversation_is_taken(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "chat.jsonl",
        conversation(("user", "Hello."), ("assistant", "Hi.")),
        conversation(("user", "Where?"), ("assistant", "Here."), ("user", "When?"), ("assistant", "Now.")),
        conversation(("user", "Who?"), ("assistant", "Me."), ("system", "Be brief.")),
    )
    data = ChatSource(str(path), messages="messages").read()
    assert data.to_dict() == {"prompt": ["Hello.", "Where?", "Who?"], "answer": ["Hi.", "Here.", "Me."]}


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (
            [("system", "Be kind."), ("user", "Hello."), ("assistant", "Hi.")],
            "system message in row 1 of .*; move its text",
        ),
        ([("assistant", "Hi."), ("user", "Hello.")], "in row 1 of .*, found assistant and user"),
        ([("user", "Hello."), ("user", "Anyone?")], "in row 1 of .*, found user and user"),
        ([("human", "Hello."), ("gpt", "Hi.")], "in row 1 of .*, found human and gpt"),
        ([("user", "Hello.")], "No text in row 1 of .*'Hello.', ''"),
        ([("user", None), ("assistant", "Hi.")], "No text in row 1 of "),
        ([], "No text in row 1 of "),
    ],
)
def test_other_conversations_are_errors_that_name_the_row(
    tmp_path: Path, turns: list[tuple[str, Any]], message: str
) -> None:
    good = conversation(("user", "Hello."), ("assistant", "Hi."))
    path = write_lines(tmp_path / "chat.jsonl", good, conversation(*turns))
    with pytest.raises(DataError, match=message):
        ChatSource(str(path), messages="messages").read()


@pytest.mark.parametrize("cell", ["Hello.", [{"from": "human", "value": "Hello."}], ["Hello."]])
def test_what_are_no_messages_are_errors(tmp_path: Path, cell: object) -> None:
    path = write_lines(tmp_path / "chat.jsonl", {"chat": cell})
    with pytest.raises(DataError, match=r'Expected a list of \{"role": ..., "content": ...\} in row 0'):
        ChatSource(str(path), messages="chat").read()


def test_content_may_be_a_list_of_text_parts_but_of_no_others(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "."}]
    good = conversation(("user", parts), ("assistant", "Hi."))
    path = write_lines(tmp_path / "chat.jsonl", good)
    assert ChatSource(str(path), messages="messages").read().to_list() == [
        {"prompt": "Hello.", "answer": "Hi."}
    ]
    for part in ({"type": "image", "url": "x"}, {"type": "text"}, "Hello."):
        write_lines(path, good, conversation(("user", [*parts, part]), ("assistant", "Hi.")))
        with pytest.raises(DataError, match="Expected text in row 1 of .*, found list"):
            ChatSource(str(path), messages="messages").read()


@pytest.mark.parametrize("empty", ["", " \n", None, []])
def test_an_empty_system_message_is_none(tmp_path: Path, empty: Any) -> None:
    row = conversation(("system", empty), ("user", "Hello."), ("assistant", "Hi."))
    path = write_lines(tmp_path / "chat.jsonl", row)
    assert ChatSource(str(path), messages="messages").read().to_list() == [
        {"prompt": "Hello.", "answer": "Hi."}
    ]


def test_messages_exclude_the_other_columns() -> None:
    for setting in ("prompt", "answer", "context"):
        with pytest.raises(ConfigError, match="messages='chat' holds prompts and answers"):
            ChatSource("chat.jsonl", messages="chat", **{setting: "other"})  # type: ignore[arg-type]


def test_a_missing_column_is_named_beside_those_found(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"question": "Why?", "answer": "So."})
    with pytest.raises(
        DataError,
        match=r"rows.jsonl has no column for prompt='prompt', context='input'; it has question, answer\.",
    ):
        ChatSource(str(path), context="input").read()


@pytest.mark.parametrize("blank", ["", " \n", None])
@pytest.mark.parametrize("column", ["prompt", "answer"])
def test_empty_rows_are_errors_or_dropped_with_their_number(
    tmp_path: Path, blank: str | None, column: str
) -> None:
    row = {"prompt": "Why?", "answer": "So."}
    write_lines(tmp_path / "a.jsonl", row, row)
    write_lines(tmp_path / "b.jsonl", row, row | {column: blank}, row | {column: blank}, row)
    pattern = str(tmp_path / "*.jsonl")
    with pytest.raises(DataError, match=r"No text in row 1 of .*b\.jsonl"):
        ChatSource(pattern).read()
    with pytest.warns(DroppedWarning, match="Left out 2 row.s. without text"):
        assert ChatSource(pattern, drop_empty=True).read().to_list() == [row] * 4


def test_a_context_without_a_prompt_is_an_empty_row_and_an_empty_context_is_none(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"prompt": "Why?", "answer": "So.", "context": None})
    assert ChatSource(str(path), context="context").read()["prompt"][:] == ["Why?"]
    path = write_lines(tmp_path / "bad.jsonl", {"prompt": "", "answer": "So.", "context": "It rains."})
    with pytest.raises(DataError, match="No text in row 0"):
        ChatSource(str(path), context="context").read()


def test_cells_that_are_not_text_and_tables_without_rows_are_errors(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"prompt": "What is 6 x 7?", "answer": 42})
    with pytest.raises(DataError, match=r"Expected text in row 0 of .*, found int 42\."):
        ChatSource(str(path)).read()
    with pytest.raises(DataError, match=r"has no rows with text \(2 without\)"):
        ChatSource(str(write(tmp_path / "blank.csv", "prompt,answer\n,\nWhy?,\n")), drop_empty=True).read()
    with pytest.raises(DataError, match=r"none.csv has no rows with text \(0 without\)"):
        ChatSource(str(write(tmp_path / "none.csv", "prompt,answer\n"))).read()


def test_longer_exchanges_are_left_out_before_the_limit_counts(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "answer": answer} for answer in ("So it is.", "So.", "Yes.", "No.")]
    path = str(write_lines(tmp_path / "rows.jsonl", *rows))
    assert ChatSource(path, max_characters=8, limit=2).read().to_list() == [rows[1], rows[2]]
    assert ChatSource(path, max_characters=13).read().to_list() == rows
    with pytest.raises(DataError, match=r"All 4 row.s. of .* are longer than max_characters=6; raise it"):
        ChatSource(path, max_characters=6).read()
    with pytest.raises(ConfigError, match="max_characters=0 must be positive; leave it out"):
        ChatSource(path, max_characters=0)


def test_limit_takes_the_first_rows_of_the_seeds_order(tmp_path: Path) -> None:
    path = numbered(tmp_path, 50)
    rows = ChatSource(path).read().to_list()
    assert ChatSource(path, limit=7).read().to_list() == rows[:7]
    assert ChatSource(path, limit=500).read().to_list() == rows
    shuffled = ChatSource(path, seed=3).read().to_list()
    assert shuffled != rows
    assert sorted(map(str, shuffled)) == sorted(map(str, rows))
    assert ChatSource(path, seed=3, limit=7).read().to_list() == shuffled[:7]
    assert ChatSource(path, seed=4).read().to_list() != shuffled


def test_a_shuffled_row_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "answer": "So."}] * 30
    path = write_lines(tmp_path / "rows.jsonl", *rows[:17], {"prompt": "Why?", "answer": ""}, *rows)
    with pytest.raises(DataError, match="No text in row 17 of"):
        ChatSource(str(path), seed=0).read()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_takes_nothing_is_an_error(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"limit={limit} must be positive"):
        ChatSource("rows.jsonl", limit=limit)
