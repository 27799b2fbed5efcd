"""The modules of the package, for tests that walk through them."""

from pathlib import Path

__all__ = ["MODULES", "PACKAGE", "ROOT", "modules_in"]

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "amlsched"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Their files, by their names."""


def modules_in(folder: Path) -> list[str]:
    """The names of the files in a folder of the package, without `.py`."""
    return [path.stem for path in MODULES.values() if path.parent == folder]
