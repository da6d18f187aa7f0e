"""YAML as plain values, with every complaint naming the file."""

from __future__ import annotations

from typing import Any

from equimodal.errors import DataError, missing_extra


def read_yaml(text: str, file: str, purpose: str) -> Any:
    """The plain values (mappings, lists, texts, numbers) in ``text``; a key that stands there twice is refused.

    Args:
        text: YAML.
        file: where it is from, for messages.
        purpose: what PyYAML is needed for, where it is not installed: ``"Reading a card"``.

    Raises:
        DataError: no valid YAML, or a key of a mapping stands there twice.
        MissingExtraError: PyYAML is not installed.

    Example:
        >>> read_yaml("a: [1, x]", "a.yaml", "Reading an example")
        {'a': [1, 'x']}
    """
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "cli", purpose) from error

    class Loader(yaml.SafeLoader):
        """Refuses a key that is there twice, of which YAML would silently keep the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for position, key in enumerate(keys):
                if key in keys[:position]:
                    line = node.value[position][0].start_mark.line + 1
                    raise DataError(f"{file}: line {line}: expected each field once. Found {key!r} a second time.")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506  (a SafeLoader: it makes plain values only)
    except yaml.YAMLError as error:
        raise DataError(f"{file}: expected valid YAML. Found: {' '.join(str(error).split())}.") from error
