"""Turn an error in importing a user's file into one message with the file, the line and the cause."""

from __future__ import annotations

import traceback
from pathlib import Path

from amlsched.errors import ExperimentError
from amlsched.extras import hidden, is_installed

__all__ = ["import_failed"]

_PARSES = 'it parses the command line when it is imported: move that below if __name__ == "__main__"'
_EXITS = 'it exits when it is imported: move that below if __name__ == "__main__", or into the experiment'


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
    problem = f"cannot be imported: {type(error).__name__}: {error}{line}"
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
