"""Plain values: told apart, copied, merged, and set at a path."""

from typing import Any, TypeGuard, TypeVar, cast

from amlsched.experiments.yaml12 import Key

__all__ = ["copied", "is_list", "is_mapping", "is_tuple", "merge", "set_at"]

T = TypeVar("T")


def is_mapping(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether it is a mapping."""
    return isinstance(value, dict)


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    """Whether it is a tuple, as `!!python/tuple` makes it."""
    return isinstance(value, tuple)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether it is a list."""
    return isinstance(value, list)


def copied(value: T) -> T:
    """A copy of a plain value that shares no list and no mapping with it."""
    if is_mapping(value):
        return cast("T", {key: copied(below) for key, below in value.items()})
    if is_list(value):
        return cast("T", [copied(item) for item in value])
    if is_tuple(value):
        return cast("T", tuple(copied(item) for item in value))
    return value


def merge(base: dict[Any, Any], over: dict[Any, Any]) -> dict[Any, Any]:
    """A new mapping with the entries of both: mappings merge key by key, anything else of `over` replaces.

    The keys of `base` come first, in their order. A mapping replaces what is no mapping, null too; and null replaces a
    mapping.
    """
    result = copied(base)
    for key, value in over.items():
        if is_mapping(value):
            below = base.get(key)
            result[key] = merge(below if is_mapping(below) else {}, value)
        else:
            result[key] = copied(value)
    return result


def set_at(mapping: dict[Any, Any], path: tuple[Key, ...], value: Any) -> None:
    """Sets the value at a path, with new mappings on the way where there is none."""
    for key in path[:-1]:
        below = mapping.get(key)
        if not is_mapping(below):
            below = mapping[key] = {}
        mapping = below
    mapping[path[-1]] = value
