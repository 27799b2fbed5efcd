"""`tests/unit` mirrors the package: who knows a module finds its tests."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_file_of_unit_tests_stands_where_its_module_does_and_begins_with_its_name() -> None:
    astray: list[str] = []
    for file in sorted((ROOT / "tests" / "unit").rglob("test_*.py")):
        folder = ROOT / "amlsched" / file.parent.relative_to(ROOT / "tests" / "unit")
        modules = [module.stem.lstrip("_") for module in folder.glob("*.py") if module.stem != "__init__"]
        name = file.stem.removeprefix("test_")
        if not any(name == module or name.startswith(f"{module}_") for module in modules):
            astray.append(str(file.relative_to(ROOT)))
    assert astray == []
