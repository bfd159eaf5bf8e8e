"""YAML of plain values that say what they seem to say."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode


class _StrictLoader(yaml.SafeLoader):
    """Without aliases, of which a few lines can make more values than memory holds, and without repeated keys, of which the last
    would be taken silently."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not read; write the value out", mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "keys must be text or numbers", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The values of a YAML document; no Python objects, no aliases, no repeated keys.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: if it is no such document.
    """
    return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
