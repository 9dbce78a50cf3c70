"""Prompts with blanks: ``Explain {topic} to {reader}``.

A blank is a lower-case name in single braces. A doubled brace is a brace to keep: ``{{`` is ``{``.
"""

import re

_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]*)\}")
_PLAIN = {"{{": "{", "}}": "}"}


class MissingValue(ValueError):
    """A blank for which no value was given."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no value for {{{name}}}")
        self.name = name


def blanks(text: str) -> list[str]:
    """The names of the blanks in text, each once, in order of appearance."""
    names = (match[1] for match in _TOKEN.finditer(text))
    return list(dict.fromkeys(name for name in names if name))


def fill(text: str, values: dict[str, str]) -> str:
    """Text with each blank replaced by its value. Raises MissingValue for the first without one."""

    def replace(match: re.Match[str]) -> str:
        if not match[1]:
            return _PLAIN[match[0]]
        if match[1] not in values:
            raise MissingValue(match[1])
        return values[match[1]]

    return _TOKEN.sub(replace, text)
