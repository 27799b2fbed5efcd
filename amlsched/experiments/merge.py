"""Plain values: copied, merged, and set at a path."""

from typing import Any, TypeVar

from amlsched.experiments.yaml12 import Key

__all__ = ["copied", "merge", "set_at"]

T = TypeVar("T")


def copied(value: T) -> T:
    """A copy of a plain value that shares no list and no mapping with it."""
    result: Any = value
    if isinstance(value, dict):
        result = {key: copied(below) for key, below in value.items()}  # pyright: ignore[reportUnknownVariableType]
    elif isinstance(value, list):
        result = [copied(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return result


def merge(base: dict[Any, Any], over: dict[Any, Any]) -> dict[Any, Any]:
    """A new mapping with the entries of both: mappings merge key by key, anything else of `over` replaces.

    The keys of `base` come first, in their order. A mapping replaces what is no mapping, null too; and null replaces a
    mapping.
    """
    result = copied(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below: Any = base.get(key)
            result[key] = merge(below if isinstance(below, dict) else {}, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            result[key] = copied(value)
    return result


def set_at(mapping: dict[Any, Any], path: tuple[Key, ...], value: Any) -> None:
    """Sets the value at a path, with new mappings on the way where there is none."""
    for key in path[:-1]:
        below = mapping.get(key)
        if not isinstance(below, dict):
            below = mapping[key] = {}
        mapping = below  # pyright: ignore[reportUnknownVariableType]
    mapping[path[-1]] = value
