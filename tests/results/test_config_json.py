from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from revlens.errors import ConfigError, ResultsError
from revlens.results import config_json, read_config


@dataclass(frozen=True)
class Circle:
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ConfigError(f"radius={self.radius} must be positive.")


@dataclass(frozen=True)
class Square:
    side: float = 1.0


@dataclass(frozen=True)
class Disk(Circle):
    """The fields of a circle, and another class."""


@dataclass(frozen=True)
class Drawing:
    shape: Circle | Square | Disk = Circle()
    more: tuple[Circle | Square, ...] = ()
    named: Mapping[str, Square] = field(default_factory=dict)
    border: Square | None = None
    free: Mapping[str, Any] = field(default_factory=dict)


DRAWINGS = (
    Drawing(),
    Drawing(Square(2.0)),
    Drawing(Disk(2.0)),
    Drawing(more=(Circle(), Square()), named={"a": Square(3.0)}, border=Square()),
    Drawing(free={"type": "Circle", "radius": -1, "list": (1, ("x", None)), "table": {"type": 3}}),
)


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_what_is_written_is_read(drawing: Drawing, tmp_path: Path) -> None:
    (tmp_path / "drawing.json").write_text(json.dumps(config_json(drawing)))
    assert read_config(tmp_path / "drawing.json", Drawing, "drawing") == drawing


def test_json_names_the_class_of_every_dataclass() -> None:
    assert config_json(Drawing(more=(Disk(),), free={"a": (1, 2)})) == {
        "type": "Drawing",
        "shape": {"type": "Circle", "radius": 1.0},
        "more": [{"type": "Disk", "radius": 1.0}],
        "named": {},
        "border": None,
        "free": {"a": [1, 2]},
    }


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"shape": {"type": "Star"}}, "the type 'Star' is not known here, expected Circle or Square or"),
        ({"shape": {"type": ["Circle"]}}, "the type ['Circle'] is not known here"),
        ({"border": {"type": "Circle"}}, "the type 'Circle' is not known here, expected Square."),
        ({"shape": {"radius": 1.0}}, "shape is {'radius': 1.0}, expected Circle or Square or Disk."),
        ({"shape": {"type": "Square", "radius": 1.0}}, "Square: there is no setting 'radius'."),
        ({"more": [{"type": "Circle", "radius": "1"}]}, "Circle: radius is '1', expected a finite number."),
        ({"more": {"type": "Circle"}}, "Drawing: more is Circle(radius=1.0), expected a list."),
        ({"type": "Circle"}, "the type 'Circle' is not known here, expected Drawing."),
    ],
)  # fmt: skip
def test_anything_else_is_no_drawing(stored: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "drawing.json"
    path.write_text(json.dumps({"type": "Drawing"} | stored))
    with pytest.raises(ResultsError, match=rf"is no drawing of this version.*{re.escape(message)}"):
        read_config(path, Drawing, "drawing")


@pytest.mark.parametrize("stored", [3, "Drawing", [{"type": "Drawing"}], {"free": {}}, {}])
def test_no_table_of_the_class_is_no_drawing(stored: Any, tmp_path: Path) -> None:
    (tmp_path / "drawing.json").write_text(json.dumps(stored))
    with pytest.raises(ResultsError, match=r"it holds no table with type = 'Drawing'\.$"):
        read_config(tmp_path / "drawing.json", Drawing, "drawing")


def test_a_setting_out_of_its_range_is_an_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "drawing.json").write_text(
        json.dumps({"type": "Drawing", "shape": {"type": "Disk", "radius": 0}})
    )
    with pytest.raises(ResultsError, match=r"drawing\.json is no drawing .*: radius=0\.0 must be positive"):
        read_config(tmp_path / "drawing.json", Drawing, "drawing")


def test_no_json_and_no_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="No such file"):
        read_config(tmp_path / "drawing.json", Drawing, "drawing")
    (tmp_path / "drawing.json").write_text('{"type": "Drawing", "more": ' + "[" * 50_000)
    with pytest.raises(ResultsError, match="nested too deeply"):
        read_config(tmp_path / "drawing.json", Drawing, "drawing")
