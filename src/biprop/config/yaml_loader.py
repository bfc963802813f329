"""A YAML loader for configurations: no aliases, no duplicate keys, limited depth."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

MAX_DEPTH = 10


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but aliases, deep nesting and duplicate keys raise `yaml.YAMLError`.

    Ten lines of aliases of aliases expand to a billion values, and of two equal keys the safe
    loader silently takes the last.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node of the document.

        Raises:
            yaml.YAMLError: it is an alias, or more than `MAX_DEPTH` levels deep.
        """
        if self.check_event(yaml.AliasEvent):
            raise _error("an alias (*name): write the value itself", self.peek_event().start_mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error(f"more than {MAX_DEPTH} levels", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """The dictionary of a node.

        Raises:
            yaml.YAMLError: a key comes twice.
        """
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise _error(f"the key {key.value!r:.80} comes twice", key.start_mark)
                keys.add(str(key.value))
        return super().construct_mapping(node, deep)


def _error(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
