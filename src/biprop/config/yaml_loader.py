"""YAML as configurations need it: plain values, a few levels deep, each key once, nothing that
grows when it is read.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

MOST_LEVELS = 10


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, deep nesting and keys that come twice; each is a
    `yaml.YAMLError`.

    Ten lines of aliases of aliases are a billion values when somebody goes through them, and of two
    equal keys the safe loader takes the last without a word.
    """

    _level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _mistake("an alias (*name): write the value itself", self.peek_event().start_mark)
        self._level += 1
        if self._level > MOST_LEVELS:
            raise _mistake(f"more than {MOST_LEVELS} levels", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            known: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in known:
                    raise _mistake(f"the key {key.value!r:.80} comes twice", key.start_mark)
                known.add(str(key.value))
        return super().construct_mapping(node, deep)


def _mistake(what: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)
