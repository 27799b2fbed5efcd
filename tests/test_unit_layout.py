"""`tests/unit` mirrors the package: who knows a module finds its tests."""

from tests.modules import PACKAGE, ROOT, modules_in

UNIT = ROOT / "tests" / "unit"


def test_each_file_of_unit_tests_stands_where_its_module_does_and_begins_with_its_name() -> None:
    astray: list[str] = []
    for file in sorted(UNIT.rglob("test_*.py")):
        names = modules_in(PACKAGE / file.parent.relative_to(UNIT))
        modules = [name.lstrip("_") for name in names if name != "__init__"]
        name = file.stem.removeprefix("test_")
        if not any(name == module or name.startswith(f"{module}_") for module in modules):
            astray.append(str(file.relative_to(ROOT)))
    assert astray == []
