"""The copy of the code: which files, whole or not at all, and a job that makes sure of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import types
import zipfile
from pathlib import Path

import pytest

from amlsched.errors import CodeCopyError, ConfigError
from amlsched.experiments._code import copy as codecopy
from amlsched.experiments._code import files as codefiles
from amlsched.experiments._code.copy import MARKER, CodeCopy, CopyPlan, check_runs_from, copy_code, zip_code

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def put(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    put(folder, train_dot_py="print(1)", lib__a_dot_py="A = 1", lib__a_dot_log="noise", data__big_dot_bin="x" * 1000)
    put(folder, _dot_gitignore="*.log\n/data/\n!keep.log\n", lib__keep_dot_log="kept", lib__cache__x_dot_py="x")
    (folder / "lib" / ".gitignore").write_text("cache\n")
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "a.pyc").write_text("compiled")
    return folder


WANTED = [".gitignore", "lib/.gitignore", "lib/a.py", "lib/keep.log", "train.py"]


def in_git(source: Path) -> None:
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "train.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("git", [pytest.param(True, marks=needs_git), False])
def test_gitignore_and_git_are_respected(source: Path, tmp_path: Path, git: bool, monkeypatch) -> None:
    if git:
        in_git(source)
    else:
        (source / ".git").mkdir()
        (source / ".git" / "config").write_text("secret")
        monkeypatch.setattr(codefiles, "_of_git", lambda source: None)
    assert codefiles.code_files(source) == WANTED
    copy = copy_code(source, tmp_path / "copy")
    assert files(tmp_path / "copy") == sorted([MARKER, *WANTED])
    assert (copy.source, copy.folder, list(copy.files)) == (source, tmp_path / "copy", WANTED)
    assert (tmp_path / "copy" / "lib" / "a.py").read_text() == "A = 1"


@needs_git
def test_a_file_that_is_new_or_edited_since_the_commit_is_copied_as_it_is_now(source: Path, tmp_path: Path) -> None:
    in_git(source)
    put(source, train_dot_py="print(2)", new_dot_py="new")
    copy_code(source, tmp_path / "copy")
    assert (tmp_path / "copy" / "train.py").read_text() == "print(2)"
    assert (tmp_path / "copy" / "new.py").read_text() == "new"


def test_results_and_the_copy_itself_are_left_out(source: Path, tmp_path: Path) -> None:
    put(source, results__a_dot_csv="1", copies__old__x_dot_py="1")
    copy = copy_code(source, source / "copies" / "one", exclude=[source / "results", source / "copies"])
    assert list(copy.files) == WANTED


def test_a_link_within_the_code_stays_one_and_one_out_of_it_leads_to_the_same_place(source: Path, tmp_path) -> None:
    put(tmp_path, elsewhere__data_dot_csv="1")
    (source / "lib" / "b.py").symlink_to("a.py")
    (source / "inputs").symlink_to("../elsewhere")
    copy_code(source, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy" / "lib" / "b.py").resolve() == tmp_path / "deep" / "copy" / "lib" / "a.py"
    assert (tmp_path / "deep" / "copy" / "inputs" / "data.csv").read_text() == "1"


def test_a_copy_can_be_made_again_with_the_same_code(source: Path, tmp_path: Path) -> None:
    first = copy_code(source, tmp_path / "copy")
    assert copy_code(source, tmp_path / "copy") == first


def test_a_copy_of_other_code_is_replaced_only_when_asked_and_kept_beside(source: Path, tmp_path: Path) -> None:
    first = copy_code(source, tmp_path / "copy")
    put(source, train_dot_py="print(2)")
    with pytest.raises(CodeCopyError, match=r"copy of other code.*use -o to replace it"):
        copy_code(source, tmp_path / "copy")
    second = copy_code(source, tmp_path / "copy", replace=True)
    assert second.digest != first.digest
    assert (tmp_path / "copy" / "train.py").read_text() == "print(2)"
    assert (tmp_path / f"copy.{first.digest[:12]}" / "train.py").read_text() == "print(1)"


def test_a_folder_that_is_no_copy_is_not_touched(source: Path, tmp_path: Path) -> None:
    put(tmp_path, copy__mine_dot_txt="mine")
    with pytest.raises(CodeCopyError, match="is not a code copy"):
        copy_code(source, tmp_path / "copy", replace=True)
    assert files(tmp_path / "copy") == ["mine.txt"]


def test_a_copy_that_fails_leaves_nothing_behind(source: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(CodeCopyError, match="No space left"):
        copy_code(source, tmp_path / "copies" / "one")
    assert list((tmp_path / "copies").iterdir()) == []


def test_code_that_changes_while_it_is_copied_is_copied_again(source: Path, tmp_path: Path, monkeypatch) -> None:
    original, times = codecopy._copy_file, []

    def edits(origin: Path, stage: Path, name: str) -> None:
        original(origin, stage, name)
        if name == "lib/a.py" and not times:
            times.append(1)
            (origin / "train.py").write_text("print('edited')")

    monkeypatch.setattr(codecopy, "_copy_file", edits)
    copy = copy_code(source, tmp_path / "copy")
    copy.check()
    assert (tmp_path / "copy" / "train.py").read_text() == "print('edited')"


def test_too_much_is_refused_with_the_largest_files_unless_allowed(source: Path, tmp_path: Path) -> None:
    put(source, weights_dot_bin="x" * 300)
    with pytest.raises(CodeCopyError, match=r"largest files: weights.bin.*gitignore.*--skipsizecheck"):
        copy_code(source, tmp_path / "copy", max_bytes=200)
    with pytest.raises(CodeCopyError, match=r"weights.bin"):
        zip_code(source, tmp_path / "copy.zip", max_bytes=200)
    assert copy_code(source, tmp_path / "copy", max_bytes=None).n_bytes > 300


def test_a_zip_holds_the_same_files(source: Path, tmp_path: Path) -> None:
    file = zip_code(source, tmp_path / "kept" / "code")
    assert file == tmp_path / "kept" / "code.zip"
    assert sorted(zipfile.ZipFile(file).namelist()) == WANTED


# ------------------------------------------------------------------------------------------------------ in the job


def module(file: Path) -> types.ModuleType:
    made = types.ModuleType("train")
    made.__file__ = str(file)
    return made


def test_a_job_without_a_copy_runs_from_where_it_is(source: Path) -> None:
    assert check_runs_from(module(source / "train.py"), {}) is None


def test_a_job_runs_from_its_copy_for_certain(source: Path, tmp_path: Path) -> None:
    copy = copy_code(source, tmp_path / "copy")
    environment = copy.environment({"PYTHONPATH": f"{source}/lib:/opt/else"})
    assert environment["PYTHONPATH"] == f"{tmp_path}/copy:{tmp_path}/copy/lib:/opt/else"
    assert check_runs_from(module(copy.place(source / "train.py")), environment) == copy
    with pytest.raises(CodeCopyError, match=r"was imported from .*project/train.py, not from the copy"):
        check_runs_from(module(source / "train.py"), environment)


def test_what_a_run_writes_into_the_copy_is_no_change_of_it(source: Path, tmp_path: Path) -> None:
    copy = copy_code(source, tmp_path / "copy")
    put(copy.folder, out_dot_csv="1", lib____pycache____a_dot_pyc="1")
    copy.check(copy.digest)


@pytest.mark.parametrize("how", ["edited", "removed", "no marker", "torn marker", "other code"])
def test_a_job_does_not_run_from_a_copy_that_was_changed(source: Path, tmp_path: Path, how: str) -> None:
    copy = copy_code(source, tmp_path / "copy")
    if how == "edited":
        put(copy.folder, lib__a_dot_py="A = 2")
    elif how == "removed":
        (copy.folder / "lib" / "a.py").unlink()
    elif how == "no marker":
        (copy.folder / MARKER).unlink()
    elif how == "torn marker":
        (copy.folder / MARKER).write_text((copy.folder / MARKER).read_text()[:20])
    else:
        put(source, lib__a_dot_py="A = 2")
        copy_code(source, tmp_path / "copy", replace=True)
    with pytest.raises(CodeCopyError, match=re.escape(str(tmp_path / "copy"))):
        check_runs_from(module(copy.folder / "train.py"), copy.environment({}))


# ------------------------------------------------------------------------------------------------------ what is asked


def test_the_section_and_the_flags_say_what_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    both = {"experiment_copy_src": ".", "experiment_copy_dst": "copy"}
    assert CopyPlan.of({}, "out") == CopyPlan("none", tmp_path, tmp_path / "out")
    assert CopyPlan.of(both, "out") == CopyPlan("copy", tmp_path, tmp_path / "copy")
    assert CopyPlan.of(both, "out", multicopy=True).mode == "multi"
    assert CopyPlan.of(both, "out", nocodecopy=True, multicopy=True).mode == "none"
    assert CopyPlan.of({}, "out", zip=True) == CopyPlan("zip", tmp_path, tmp_path / "out" / "code.zip")
    assert CopyPlan.of(both, "out", skipsizecheck=True).max_bytes is None


def test_a_folder_of_its_own_is_named_after_the_time(tmp_path: Path) -> None:
    """Trap 9: cw2 writes the year of the week in the place of the hour."""
    made = CopyPlan.of({"experiment_copy_src": str(tmp_path), "experiment_copy_auto_dst": str(tmp_path / "all")}, "out")
    assert made.destination.parent == tmp_path / "all"
    assert re.fullmatch(r"20\d\d[01]\d[0-3]\d-[0-2]\d[0-5]\d[0-5]\d", made.destination.name)


@pytest.mark.parametrize(
    ("section", "flags", "missing"),
    [
        ({"experiment_copy_src": "."}, {}, "needs experiment_copy_dst or experiment_copy_auto_dst"),
        ({"experiment_copy_dst": "x"}, {}, "needs experiment_copy_src"),
        ({}, {"multicopy": True}, "--multicopy needs experiment_copy_src, and"),
    ],
)
def test_half_of_what_is_needed_is_an_error(section, flags, missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        CopyPlan.of(section, "out", where="a.yml:3", **flags)


def test_each_job_gets_a_copy_or_all_share_one(source: Path, tmp_path: Path) -> None:
    section = {"experiment_copy_src": str(source), "experiment_copy_dst": str(tmp_path / "copy")}
    [one] = CopyPlan.of(section, "out").make(3)
    assert one.folder == tmp_path / "copy"
    section["experiment_copy_dst"] = str(tmp_path / "copies")
    made = CopyPlan.of(section, "out", multicopy=True).make(3)
    assert [copy.folder for copy in made] == [tmp_path / "copies" / str(k) for k in range(3)]
    assert CopyPlan.of(section, "out", nocodecopy=True).make(3) == []
    assert CodeCopy.read(tmp_path / "copies" / "2").digest == one.digest


def test_copies_within_the_source_are_not_copied_again(source: Path) -> None:
    section = {"experiment_copy_src": str(source), "experiment_copy_dst": str(source / "copies" / "a")}
    [first] = CopyPlan.of(section, "out").make()
    section["experiment_copy_dst"] = str(source / "copies" / "b")
    [second] = CopyPlan.of(section, "out").make()
    assert first.files == second.files == tuple(WANTED)
    assert copy_code(second.folder, source / "copies" / "c").files == tuple(WANTED)


@needs_git
def test_a_project_in_a_folder_that_git_ignores_is_copied_all_the_same(source: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / ".gitignore").write_text("/project/\n")
    assert list(copy_code(source, tmp_path / "copy").files) == WANTED


def test_a_folder_without_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CodeCopyError, match="no code in this folder"):
        copy_code(tmp_path / "empty", tmp_path / "copy")


def test_what_is_too_large_is_not_read_before_it_is_refused(source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(codecopy, "_digest", None)
    with pytest.raises(CodeCopyError, match="largest files"):
        copy_code(source, tmp_path / "copy", max_bytes=1)
