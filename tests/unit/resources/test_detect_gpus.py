"""Which GPUs a process may use: by a fake NVML behind the real nvidia-ml-py, and as the kernel reports AMD's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amlsched.resources import Gpu, gpus
from tests.nvml import DRIVER_NOT_LOADED, GIB, Device, Library, loaded

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

A, B = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1b07005d-d268-c3f3-5c89-852c5ae1dc3f"
MIG_1, MIG_2 = "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", "MIG-aa89852c-d268-c3f3-1b07-005d5ae1dc30"
MODEL = "NVIDIA A100-SXM4-40GB"


@pytest.fixture
def two() -> Iterator[Library]:
    with loaded(Library([Device(A, used=4 * GIB), Device(B)])) as library:
        yield library
        assert library.open == 0


def divided() -> Device:
    instances = [Device(MIG_1, total=20 * GIB, ids=(1, 0)), Device(MIG_2, total=5 * GIB, ids=(9, 0), used=GIB)]
    return Device(A, mig=instances, divided=True)


def test_each_gpu_has_its_number_model_and_memory(two: Library, tmp_path: Path) -> None:
    found = gpus({}, tmp_path)
    assert found.found == (Gpu("0", MODEL, 40 * GIB, 36 * GIB), Gpu("1", MODEL, 40 * GIB, 40 * GIB))
    assert found.variable == "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", [("1", 40 * GIB)]),
        ("1,0", [("1", 40 * GIB), ("0", 36 * GIB)]),
        (A, [(A, 36 * GIB)]),
        ("GPU-8932", [("GPU-8932", 36 * GIB)]),
        ("7", [("7", None)]),
        ("", []),
        ("-1", []),
    ],
)
def test_an_inherited_variable_selects_and_its_entries_stay_as_they_are(
    two: Library, tmp_path: Path, visible: str, expected: list[tuple[str, int | None]]
) -> None:
    found = gpus({"CUDA_VISIBLE_DEVICES": visible}, tmp_path)
    assert [(gpu.name, gpu.free_bytes) for gpu in found.found] == expected
    assert f"CUDA_VISIBLE_DEVICES={visible}" in found.looked_for


def test_a_gpu_that_is_divided_is_replaced_by_its_instances(tmp_path: Path) -> None:
    with loaded(Library([divided(), Device(B, mig=[])])):
        found = gpus({}, tmp_path).found
    assert [(gpu.name, gpu.memory_bytes, gpu.free_bytes) for gpu in found] == [
        (MIG_1, 20 * GIB, 20 * GIB),
        (MIG_2, 5 * GIB, 4 * GIB),
        (B, 40 * GIB, 40 * GIB),
    ]


@pytest.mark.parametrize("name", [MIG_2, f"MIG-{A}/9/0"])
def test_an_instance_is_found_by_its_new_and_its_old_name(tmp_path: Path, name: str) -> None:
    with loaded(Library([divided()])):
        assert gpus({"CUDA_VISIBLE_DEVICES": name}, tmp_path).found == (Gpu(name, MODEL, 5 * GIB, 4 * GIB),)


def test_the_number_of_a_divided_gpu_is_its_first_instance_as_cuda_has_it(tmp_path: Path) -> None:
    with loaded(Library([divided()])):
        assert gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path).found == (Gpu("0", MODEL, 20 * GIB, 20 * GIB),)


def test_gpus_of_several_models_have_no_number_that_cuda_could_read_otherwise(tmp_path: Path) -> None:
    with loaded(Library([Device(A), Device(B, "NVIDIA T4", 16 * GIB, GIB)])):
        assert [gpu.name for gpu in gpus({}, tmp_path).found] == [A, B]
        by_bus = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert [gpu.name for gpu in gpus(by_bus, tmp_path).found] == ["0", "1"]
        assert gpus({**by_bus, "CUDA_VISIBLE_DEVICES": "1"}, tmp_path).found[0].memory_bytes == 16 * GIB
        # 0 may be either of them: it has at least the memory of the smaller one.
        assert gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path).found == (Gpu("0", "", 16 * GIB, 15 * GIB),)


def test_a_gpu_that_this_process_must_not_use_is_none_of_its_gpus(tmp_path: Path) -> None:
    with loaded(Library([Device(A, forbidden=True), Device(B, shares_memory=True)])):
        assert gpus({}, tmp_path).found == (Gpu("0", MODEL),)


def test_without_a_driver_the_machine_has_none_and_says_what_was_looked_for(tmp_path: Path) -> None:
    with loaded(Library([], DRIVER_NOT_LOADED)) as library:
        found = gpus({}, tmp_path)
    assert (found.found, library.open) == ((), 0)
    assert str(found) == (
        "no GPUs (CUDA_VISIBLE_DEVICES is not set; NVML: Driver Not Loaded; the kernel has no driver for GPUs of AMD; "
        f"there is no {tmp_path}/dev/nvidia0)"
    )


def test_without_nvidia_ml_py_the_names_are_known_and_their_memory_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    found = gpus({}, tmp_path)
    assert found.found == (Gpu("0"),)
    assert "pip install 'amlsched[gpu]'" in str(found)


# --------------------------------------------------------------------------------------------------------- AMD

X, Y = "GPU-00000000000000a1", "GPU-00000000000000b2"


@pytest.fixture
def amd(tmp_path: Path) -> Path:
    """A CPU and two GPUs of AMD, and a third that this process may not open."""
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, (simd, minor, unique) in enumerate([(0, 0, 0), (304, 128, 0xA1), (304, 129, 0xB2), (304, 130, 0xC3)]):
        (nodes / str(number)).mkdir(parents=True)
        lines = f"simd_count {simd}\ndrm_render_minor {minor}\nunique_id {unique}\n"
        (nodes / str(number) / "properties").write_text(lines)
        (nodes / str(number) / "name").write_text("gfx942\n")
        device = tmp_path / f"sys/class/drm/renderD{minor}/device"
        device.mkdir(parents=True)
        (device / "mem_info_vram_total").write_text(f"{192 * GIB}\n")
        (device / "mem_info_vram_used").write_text(f"{(minor - 127) * GIB}\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    for minor in (128, 129):
        (tmp_path / f"dev/dri/renderD{minor}").touch()
    return tmp_path


def found_there(root: Path, **environ: str) -> tuple[str, list[tuple[str, int | None]]]:
    with loaded(Library([], DRIVER_NOT_LOADED)):
        found = gpus(environ, root)
    return found.variable, [(gpu.name, gpu.free_bytes and gpu.free_bytes // GIB) for gpu in found.found]


def test_gpus_of_amd_are_those_that_can_be_opened(amd: Path) -> None:
    assert found_there(amd) == ("ROCR_VISIBLE_DEVICES", [("0", 191), ("1", 190)])


def test_the_variables_of_amd_select_one_after_the_other(amd: Path) -> None:
    assert found_there(amd, ROCR_VISIBLE_DEVICES="1") == ("ROCR_VISIBLE_DEVICES", [("1", 190)])
    assert found_there(amd, ROCR_VISIBLE_DEVICES=Y.upper()) == ("ROCR_VISIBLE_DEVICES", [(Y.upper(), 190)])
    assert found_there(amd, ROCR_VISIBLE_DEVICES=f"{Y},0") == ("ROCR_VISIBLE_DEVICES", [(Y, 190), ("0", 191)])
    # HIP counts what is left: its 0 is the machine's 1.
    assert found_there(amd, ROCR_VISIBLE_DEVICES="1", HIP_VISIBLE_DEVICES="0") == ("HIP_VISIBLE_DEVICES", [("0", 190)])
    assert found_there(amd, HIP_VISIBLE_DEVICES="1", CUDA_VISIBLE_DEVICES="0")[1] == [("1", 190)]
    assert found_there(amd, CUDA_VISIBLE_DEVICES="1") == ("CUDA_VISIBLE_DEVICES", [("1", 190)])
    assert found_there(amd, HIP_VISIBLE_DEVICES="")[1] == []


def test_nothing_is_selected_of_a_machine_whose_gpus_are_hidden(amd: Path) -> None:
    with loaded(Library([], DRIVER_NOT_LOADED)):
        found = gpus({"HIP_VISIBLE_DEVICES": ""}, amd)
    assert "the driver for AMD reports 2; HIP_VISIBLE_DEVICES=" in str(found)
