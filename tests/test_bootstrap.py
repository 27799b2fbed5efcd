"""scripts/bootstrap says what is missing. What it does when nothing is missing, `make` shows."""

import subprocess
import sys
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parents[1] / "scripts" / "bootstrap"

# Commands that the script uses, and no apt-get among them.
COMMANDS = ("bash", "dirname", "env", "id", "mkdir")

NO_VENV = f"""#!/bin/bash
case "$2" in *ensurepip*) exit 1;; esac
exec {sys.executable} "$@"
"""


def bootstrap(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only `COMMANDS` are found."""
    commands = folder / "bin"
    commands.mkdir()
    for name in COMMANDS:
        real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (commands / name).symlink_to(real)
    return subprocess.run(
        [BOOTSTRAP, folder / "venv", "test"],
        env={"PATH": str(commands), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_without_a_python_it_says_which_is_needed(tmp_path: Path) -> None:
    done = bootstrap(tmp_path)
    assert done.returncode == 1
    assert "no Python of at least 3.11" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_a_python_that_is_too_old_is_refused_by_name(tmp_path: Path) -> None:
    old = script(tmp_path / "python3.9", "#!/bin/bash\nexit 1\n")
    done = bootstrap(tmp_path, PYTHON=old)
    assert done.returncode == 1
    assert f"PYTHON={old} is not a Python of at least 3.11" in done.stderr


def test_without_a_venv_module_it_says_what_to_install(tmp_path: Path) -> None:
    done = bootstrap(tmp_path, PYTHON=script(tmp_path / "python3", NO_VENV))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert done.returncode == 1
    assert f"apt-get install python{version}-venv" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["venv"]])
def test_it_needs_a_folder_and_extras(arguments: list[str]) -> None:
    done = subprocess.run([BOOTSTRAP, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "environment" in done.stderr or "extras" in done.stderr
