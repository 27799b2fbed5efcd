"""Environment variables, where the file asks for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched.errors import ConfigError
from amlsched.experiments._config.expand import expand
from amlsched.experiments._config.resolve import resolve
from amlsched.experiments._config.values import escaped, filled
from amlsched.experiments._config.yaml import read, write
from amlsched.experiments._storage import layout

Write = Callable[[str], Path]


@pytest.fixture
def write_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    for name, value in {"WHO": "me", "LR": "1e-3", "N": "3", "EMPTY": "", "ASKS": "${env:WHO}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ABSENT", raising=False)

    def write_file(text: str) -> Path:
        file = tmp_path / "f.yml"
        file.write_text(text)
        return file

    return write_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:WHO}", "me"),
        ("/home/${env:WHO}/x-${env:N}", "/home/me/x-3"),
        ("${env:LR}", 0.001),
        ("${env:N}", 3),
        ('"${env:N}"', "3"),
        ("'${env:LR}'", "1e-3"),
        ('!!float "${env:N}"', 3.0),
        ("!!str ${env:N}", "3"),
        ("${env:EMPTY}", None),
        ('"${env:EMPTY}"', ""),
        ("${env:ABSENT:5}", 5),
        ("${env:ABSENT:}", None),
        ("${env:ABSENT:a:b}", "a:b"),
        ("${env:WHO:other}", "me"),
        ("[1, '${env:WHO}']", [1, "me"]),
        ("${env:ASKS}", "${env:WHO}"),  # what a variable says is not looked into
        ("$${env:WHO}", "${env:WHO}"),
        ("$$${env:WHO}", "$${env:WHO}"),
        ("$WHO ${WHO} $(WHO)", "$WHO ${WHO} $(WHO)"),
    ],
)
def test_a_value_asks_for_a_variable(write_file: Write, text: str, value: Any) -> None:
    [one] = resolve(write_file(f"name: e\npath: out\nparams:\n  x: {text}\n")).experiments
    assert one.config["params"]["x"] == value
    assert type(one.config["params"]["x"]) is type(value)


def test_they_work_in_names_paths_imports_expansions_and_numbers(write_file: Write) -> None:
    file = write_file(
        "name: base\npath: /out/${env:WHO}\nrepetitions: ${env:N}\nparams:\n  y: ${env:WHO}\n---\n"
        'name: e_${env:N}\nimport_exp: ${env:ABSENT:base}\ngrid: {lr: [0.1, "${env:WHO}"]}\n'
    )
    [one] = resolve(file, "e_3").experiments
    assert layout.output_folder(one) == Path("/out/me")
    assert one.config["repetitions"] == 3
    assert [run.name for run in expand(one)] == ["e_3__l0.1", "e_3__lme"]


def test_they_work_in_the_section_of_this_host_alone(write_file: Write) -> None:
    file = write_file(
        "name: e\npath: out\n---\nname: SLURM\npartition: ${env:WHO}\nnum_parallel_jobs: ${env:N}\n"
        "sbatch_args:\n  qos: ${env:WHO}\n---\nname: SLURM_far\nnum_parallel_jobs: ${env:ABSENT}\n"
    )
    cluster = resolve(file, host="here").cluster
    assert cluster == {"name": "SLURM", "partition": "me", "num_parallel_jobs": 3, "sbatch_args": {"qos": "me"}}
    with pytest.raises(ConfigError, match=r"f.yml:11 \(document 3, key num_parallel_jobs\): .* ABSENT is not set"):
        resolve(file, host="far1").checked_cluster()
    file.write_text(file.read_text().replace("num_parallel_jobs: ${env:N}", "num_parallel_jobs: ${env:WHO}"))
    with pytest.raises(ConfigError, match="num_parallel_jobs is 'me', and must be a whole number"):
        resolve(file, host="here").checked_cluster()


def test_only_what_is_used_has_to_be_set(write_file: Write) -> None:
    text = "name: DEFAULT\npath: ${env:ABSENT}\n---\nname: a\npath: out\n---\nname: b\n"
    assert len(resolve(write_file(text), "a").experiments) == 1
    assert len(resolve(write_file(text), "b", overrides=["path=out"]).experiments) == 1
    with pytest.raises(ConfigError) as error:
        resolve(write_file(text), "b")
    assert error.value.where.endswith("f.yml:2 (document 1, key path)")
    assert error.value.problem == "the environment variable ABSENT is not set"
    assert error.value.remedy == "export ABSENT=…, or give a default: ${env:ABSENT:default}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: ${env:}", "'${env:}' names no environment variable (write ${env:NAME} or ${env:NAME:default}"),
        ("x: a ${env:A-B}", "'${env:A-B}' names no environment variable"),
        ("x: ${env:A", "'${env:A' names no environment variable"),
        ("x: !!int ${env:WHO}", "'me', which cannot be read: it is not a whole number"),
        ("[${env:WHO}]: 1", "this is not YAML"),
        ("${env:WHO}: 1", "a key cannot come from the environment"),
        ("x: [1, '${env:ABSENT}']", "key params.x.1): the environment variable ABSENT is not set"),
    ],
)
def test_what_asks_for_nothing_is_refused_with_its_place(write_file: Write, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(write_file(f"name: e\npath: out\nparams:\n  {line}\n"))
    assert message in str(error.value)
    assert "f.yml:4" in error.value.where


def test_a_value_of_the_command_line_may_ask_too(write_file: Write) -> None:
    [one] = resolve(write_file("name: e\npath: out\n"), overrides=["params.x=${env:N}"]).experiments
    assert one.config["params"] == {"x": 3}


def test_the_resolved_config_has_the_value_and_asks_for_nothing(
    write_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [one] = resolve(write_file("name: e\npath: out\nparams:\n  x: ${env:LR}\n  y: ${env:ASKS}\n")).experiments
    file = layout.write_resolved(tmp_path / "out", one, "f.yml")
    monkeypatch.delenv("LR")
    monkeypatch.delenv("ASKS")
    monkeypatch.setenv("WHO", "somebody else")
    [again] = resolve(file).experiments
    assert again.config["params"] == {"x": 0.001, "y": "${env:WHO}"}


@given(st.lists(st.text(alphabet="$${}env:AB-", max_size=12) | st.sampled_from(["${env:A}", "$${env:A:1}"])))
def test_any_text_that_is_escaped_is_read_as_it_was(texts: list[str]) -> None:
    [tree] = read(write([escaped({"x": texts})]), "f.yml")
    assert filled(tree.value, lambda *keys: str(keys)) == {"x": texts}
