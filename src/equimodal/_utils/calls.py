"""Names with options as text, ``name(option=value)``: values are literals, nothing is executed."""

from __future__ import annotations

import ast
from typing import Any

from equimodal._utils.outside import shortened
from equimodal.errors import MethodError

_LONGEST = 1000


def read_call(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """Name and options of ``name`` or ``name(option=value, ...)``.

    Args:
        text: the values are Python literals: numbers, words in quotes, True, None, and lists, tuples and mappings.
        where: what it is, for the message.

    Raises:
        MethodError: anything else.

    Example:
        >>> read_call("package.module:Net(width=64, depths=[1, 2])", "encoder")
        ('package.module:Net', {'width': 64, 'depths': [1, 2]})
    """
    name, bracket, _ = text.partition("(")
    name = name.strip()
    if not name:
        raise _refused(text, where)
    if not bracket:
        return name, {}
    try:
        if len(text) > _LONGEST:
            raise ValueError
        found = ast.parse(f"name{text[text.index('(') :].strip()}", mode="eval").body
        if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name) or found.args:
            raise ValueError
        options = {str(k.arg): ast.literal_eval(k.value) for k in found.keywords if k.arg is not None}
        if len(options) != len(found.keywords):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise _refused(text, where) from error
    return name, options


def split_calls(text: str) -> list[str]:
    """The parts of a list with commas, of which those inside brackets do not count.

    Example:
        >>> split_calls("f1, fbeta(beta=2.0, average='micro')")
        ['f1', "fbeta(beta=2.0, average='micro')"]
    """
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _refused(text: str, where: str) -> MethodError:
    return MethodError(
        f"`{where}`: expected name or name(option=value), with numbers, words in quotes, True, False, None or lists as "
        f"values. Found {shortened(text, 80)!r}."
    )
