"""Calls a function after a module has been imported for the first time."""

from __future__ import annotations

import contextlib
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["AfterImport"]


class AfterImport(MetaPathFinder):
    """Calls a function once for each of these modules, right after it was imported.

    Args:
        names: Names of modules that are not imported yet.
        then: Called with the name of the imported module.
    """

    def __init__(self, names: Iterable[str], then: Callable[[str], object]) -> None:
        self._names = set(names)
        self._then = then
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find it by the other finders, and wrap its loader."""
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._add_to(spec.loader, fullname)
                return spec
        return None

    def remove(self) -> None:
        """Stop watching imports."""
        self._names.clear()
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)

    def _add_to(self, loader: Any, name: str) -> None:
        original = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            loader.exec_module = original
            if self in sys.meta_path and name in self._names:
                self._names.discard(name)
                self._then(name)

        loader.exec_module = exec_module
