"""The target: the experiment to run, by a name from which every worker can import it."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import pickle
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amlsched._context import contextmanager
from amlsched._signals import raised_by_handler
from amlsched._spelling import did_you_mean, meant_file
from amlsched._surroundings import expanded, hidden, is_installed
from amlsched.errors import ExperimentError, NotPicklableError
from amlsched.executors.pickling import pickled_by_value
from amlsched.experiments._running.asynchronous import accepted_arguments, call, called, generator_complaint
from amlsched.experiments.experiment import Experiment, IterativeExperiment

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import ModuleType

    from amlsched.experiments.loggers.repetition_log import RepetitionLog

__all__ = ["FunctionExperiment", "Target", "being_imported", "check_config_picklable", "import_failed", "is_iterative"]

_MAIN = "__main__"
_METHODS = ("initialize", "run", "finalize")
_ARGUMENTS = {
    **dict.fromkeys(("initialize", "run"), ("cw_config", "rep", "logger")),
    "finalize": ("surrender", "crash"),
    **dict.fromkeys(("iterate", "save_state"), ("cw_config", "rep", "n")),
    "load_state": ("cw_config", "rep"),
}
_LINE_TO_WRITE = "write path/to/file.py:Class or package.module:Class"
_TOP_LEVEL = "define it at the top level of its file, or use --executor threads or sequential"
_PARSES = 'it parses the command line when it is imported: move that below if __name__ == "__main__"'
_EXITS = 'it exits when it is imported: move that below if __name__ == "__main__", or into the experiment'
being_imported: set[str] = set()
"""Names of the modules of files that are still being imported."""
_entered: dict[str, str] = {}
"""The working directories that modules changed to when they were imported, by their places."""


class FunctionExperiment(Experiment):
    """An experiment that calls a function `experiment(params, rep, log)`.

    Args:
        function: Its arguments are the settings under `params`, the index of the repetition, and a `RepetitionLog`.
            What it returns is logged as a row; so is the payload of an `ExperimentSurrender`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def called(self) -> str:
        """Its name in messages."""
        return called(self._function)

    def run(self, cw_config: dict[str, Any], rep: int, logger: RepetitionLog) -> Any:
        """Call the function."""
        return call(self._function, cw_config.get("params") or {}, rep, logger)


@dataclass(frozen=True, slots=True)
class Target:
    """The experiment to run, by its place.

    Attributes:
        place: Absolute path of a Python file, or name of a module.
        name: Name of the class or function there, with dots for a nested one.
        held: The class or function itself, if it cannot be imported: it was defined in a function, in a notebook, or in
            code that is not in a file. It is pickled by value.
    """

    place: str
    name: str
    held: Any = None

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse a target such as `train.py:Digits`.

        Raises:
            ExperimentError: There is no `:name`, or no such file.
        """
        place, colon, name = text.rpartition(":")
        if not colon or not place or not name:
            if text.endswith((".yml", ".yaml")):
                raise ExperimentError(text, "is a YAML file, not an experiment", _LINE_TO_WRITE)
            problem = "does not name the class or function to run"
            raise ExperimentError(text, problem, _names_in(text.rstrip(":")) or _LINE_TO_WRITE)
        if place.endswith(":"):
            raise ExperimentError(text, "has two colons", f"write {place.rstrip(':')}:{name}")
        if not place.endswith(".py") and "/" not in place:
            if not all(place.split(".")):
                raise ExperimentError(text, f"{place!r} is not a valid name of a module", _LINE_TO_WRITE)
            return cls(place, name)
        path = expanded(place, text)
        if not path.is_file():
            problem = "is a folder, not a Python file" if path.is_dir() else "there is no such file"
            if os.path.lexists(path) and not path.is_dir():
                problem = "is not a regular file, or a link to a missing one"
            raise ExperimentError(text, f"{problem}: {path}", meant_file(path, ".py") or f"from {Path.cwd()}")
        return cls(str(path.resolve()), name)

    @classmethod
    def of(cls, experiment: Any) -> Target:
        """The target of a class or function.

        Raises:
            ExperimentError: It is neither a class nor a function.
        """
        name = getattr(experiment, "__qualname__", "")
        if not name and callable(experiment):
            return cls(getattr(type(experiment), "__module__", _MAIN), called(experiment), experiment)
        if not name:
            raise ExperimentError(repr(experiment), "is neither a class nor a function")
        place = getattr(experiment, "__module__", None) or _MAIN  # missing if exec() was called without a __name__
        module = sys.modules.get(place)
        file = None if module is None else _source_file(module)
        if module is None or file is None or _lookup(module, name) is not experiment:
            return cls(place, name, experiment)
        if place == _MAIN:  # run with `python -m package.module`, or by its file
            return cls(getattr(module.__spec__, "name", None) or str(file), name)
        return cls(place, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.place, self.name, None if self.held is None else pickled_by_value(self.held))

    @property
    def folder(self) -> Path:
        """The folder of its file; the working folder if it is not in a file, as in a notebook."""
        file = Path(self.place) if self.place.endswith(".py") else _source_file(self.module())
        return Path.cwd() if file is None else file.parent

    def enter_folder(self, *, alone: bool) -> None:
        """If `alone` in the process, change to the working directory that the module changed to in its import."""
        if alone and self.place in _entered:
            os.chdir(_entered[self.place])

    def load(self) -> Callable[[], Experiment]:
        """Import it as a callable that creates a new experiment.

        Raises:
            ExperimentError: The import fails, or it is not an experiment.
        """
        return _factory(self, self.found())

    def check_picklable(self) -> None:
        """Check that it can be sent to a worker process.

        Raises:
            ExperimentError: It cannot be pickled.
        """
        experiment = self.found()
        try:
            (pickle.dumps if self.held is None else pickled_by_value)(experiment)
        except Exception as error:
            inside = self.held is None and "<locals>" in getattr(experiment, "__qualname__", "")
            reason = "it is defined inside a function" if inside else str(error)
            raise ExperimentError(str(self), f"cannot be pickled for another process: {reason}", _TOP_LEVEL) from error

    def found(self) -> Any:
        """The imported object, an experiment or not.

        Raises:
            ExperimentError: The import fails, or the module has no such name.
        """
        return _found(self, self.module()) if self.held is None else self.held

    def module(self) -> ModuleType:
        """Its imported module; that of the program if it is not in a module."""
        if self.held is not None:
            return sys.modules.get(self.place) or sys.modules[_MAIN]
        return _imported_file(self.place) if self.place.endswith(".py") else _imported_module(self)


def _names_in(place: str) -> str:
    """The top-level classes and functions of a Python file, without importing it; empty if there are none."""
    try:
        body = ast.parse(Path(place).read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = [one.name for one in body if isinstance(one, kinds) and not one.name.startswith("_")]
    return f"write {place}:NAME; it has: {', '.join(names)}" if names else ""


def _source_file(module: ModuleType) -> Path | None:
    """The Python file of a module, if other processes can import it; `None` for a notebook, `python -c` and stdin."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or (module.__name__ == _MAIN and not (file.endswith(".py") and Path(file).is_file())):
        return None
    return Path(file).resolve()


def _lookup(module: ModuleType | None, name: str) -> Any:
    """The object with this dotted name in a module; `None` if there is none."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _loaded(place: str, name: str, held: bytes | None) -> Target:
    return Target(place, name, None if held is None else pickle.loads(held))


# -------------------------------------------------------------------------------------------------------------- imports


def _imported_module(target: Target) -> ModuleType:
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    for module in _mains():  # run with `python -m`
        if getattr(module.__spec__, "name", None) == target.place:
            return module
    try:
        with _folder_kept(target.place):
            return importlib.import_module(target.place)
    except ModuleNotFoundError as error:
        if error.name is not None and (target.place == error.name or target.place.startswith(error.name + ".")):
            where = meant_file(Path(f"{error.name}.py"), ".py") or f"from {Path.cwd()} and {sys.prefix}"
            raise ExperimentError(str(target), f"there is no module {error.name}", where) from error
        raise import_failed(target.place, error) from error
    except BaseException as error:
        if isinstance(error, ExperimentError) or raised_by_handler(error):
            raise
        raise import_failed(target.place, error) from error


@contextmanager
def _folder_kept(place: str) -> Generator[None]:
    """Restore the working directory after an import that changes it; it is changed again for its repetitions only."""
    before = os.getcwd()  # noqa: PTH109
    try:
        yield
    finally:
        after = os.getcwd()  # noqa: PTH109
        if after != before:
            _entered[place] = after
            os.chdir(before)


def _mains() -> list[ModuleType]:
    """The module of the program, also in a worker, which imports it under another name."""
    return [sys.modules[name] for name in (_MAIN, "__mp_main__") if name in sys.modules]


@functools.cache
def _imported_file(place: str) -> ModuleType:
    """The module of a file, imported once per process; as for a script, its folder is put first in `sys.path`."""
    path = Path(place)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == place:
        return known
    for module in _mains():  # a script that runs its own experiment is not imported a second time
        if _is_file_of(module, path):
            return module
    # A file with the name of an imported module (random.py) gets another name, so that it does not hide that module. So
    # does a file with a dot in its name (train_v1.2.py), which would be the name of a module in a package.
    own = known is None and "." not in path.stem
    name = path.stem if own else f"_amlsched_target_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "its suffix is .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    being_imported.add(name)
    try:
        with _folder_kept(place):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ExperimentError) or raised_by_handler(error):
            raise
        raise import_failed(place, error) from error
    finally:
        being_imported.discard(name)
    return module


def _is_file_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def import_failed(place: str, error: BaseException) -> ExperimentError:
    """The error to raise instead of the original error of an import.

    Args:
        place: Path of the file, or name of the module, that was imported.
        error: The original error.
    """
    if isinstance(error, SyntaxError):
        file = "" if error.filename in (place, None) else f"{error.filename}, "
        line = f" ({file}line {error.lineno})" if error.lineno is not None else ""
        return ExperimentError(place, f"cannot be imported: {type(error).__name__}: {error.msg}{line}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if frame.filename == place]
    users = [frame for frame in frames if not is_installed(frame.filename)]
    line = ""
    if frames:
        frame = (users or own or frames)[-1]
        line = f" (line {frame.lineno})" if frame.filename == place else f" ({frame.filename}, line {frame.lineno})"
    described = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    problem = f"cannot be imported: {described}{line}"
    return ExperimentError(place, problem, hidden(error) or _remedy(place, error, frames))


def _remedy(place: str, error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    if isinstance(error, SystemExit):
        parses = any(Path(frame.filename).name == "argparse.py" for frame in frames)
        return _PARSES if parses else _EXITS
    if isinstance(error, ImportError) and "attempted relative import" in str(error) and place.endswith(".py"):
        folder, names = Path(place).parent, [Path(place).stem]
        while (folder / "__init__.py").is_file() or len(names) == 1:
            names.insert(0, folder.name)
            folder = folder.parent
        where = "" if folder == Path.cwd() else f", in the folder {folder}"
        return f"it is part of a package: write {'.'.join(names)}:NAME{where}"
    return ""


# --------------------------------------------------------------------------------------------- what makes an experiment


def _found(target: Target, module: ModuleType) -> Any:
    found: Any = module
    for part in target.name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ExperimentError(str(target), f"has no {part!r}", _offer(module, part)) from error
    return found


def _offer(module: ModuleType, part: str) -> str:
    names = [name for name, value in vars(module).items() if _is_own(value, module) and _complaint(value) is None]
    return f"{did_you_mean(part, names)}it has: {', '.join(names)}" if names else "it has no experiment"


def _is_own(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _complaint(found: Any) -> str | None:
    """Why this is not an experiment; `None` if it is one."""
    if isinstance(found, type):
        missing = [name for name in _METHODS if not callable(getattr(cast("Any", found), name, None))]
        if missing:
            return f"is not an experiment: it has no {', '.join(missing)}"
        if inspect.isabstract(found):
            return f"is abstract: {', '.join(sorted(_abstract(found)))} must be implemented"
        for name in _ARGUMENTS:
            method = getattr(cast("Any", found), name, None)
            if method is not None and (why := generator_complaint(method) or _misfit(found, name, method)):
                return f"{name} {why}"
        return None
    if not callable(found):
        return f"is a {type(found).__name__}, neither a class nor a function"
    if complaint := generator_complaint(found):
        return complaint
    try:
        inspect.signature(found).bind({}, 0, None)
    except ValueError:  # a function in C
        return None
    except TypeError as error:
        return f"cannot be called as experiment(params, rep, log): {error}"
    return None


def _misfit(found: type[Any], name: str, method: Any) -> str | None:
    """Why a method cannot be called with its arguments; `initialize`, `run` and `finalize` may take fewer."""
    if isinstance(inspect.getattr_static(found, name), staticmethod | classmethod):
        return None
    given = _ARGUMENTS[name]
    try:
        inspect.signature(method).bind(
            *(accepted_arguments(method, None, *given) if name in _METHODS else (None, *given))
        )
    except ValueError:  # a function in C
        return None
    except TypeError as error:
        return f"cannot be called as {name}({', '.join(given)}): {error}"
    return None


def _abstract(found: Any) -> frozenset[str]:
    return cast("frozenset[str]", found.__abstractmethods__)


def _factory(target: Target, found: Any) -> Callable[[], Experiment]:
    complaint = _complaint(found)
    if complaint is not None:
        remedy = "derive it from amlsched.experiments.Experiment or IterativeExperiment"
        remedy = remedy if "generator" not in complaint else "log each row instead of yielding it"
        raise ExperimentError(str(target), complaint, remedy)
    if isinstance(found, type):
        return cast("type[Experiment]", found)
    return functools.partial(FunctionExperiment, found)


def is_iterative(made: Callable[[], Experiment]) -> bool:
    """Whether `made`, from `Target.load`, is an IterativeExperiment that uses the config's `iterations`."""
    return isinstance(made, type) and issubclass(made, IterativeExperiment) and made.run is IterativeExperiment.run


def check_config_picklable(where: str, config: dict[str, Any]) -> None:
    """Check that the config of a repetition can be pickled.

    Raises:
        NotPicklableError: A value cannot be pickled; the error names its key.
    """
    for key, value in config.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise NotPicklableError(where, f"key {key!r} of its config", str(error)) from error
