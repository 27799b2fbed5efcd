"""Which tests keep out of each other's way when they run in several processes."""

import pytest

from tests.groups import group


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        ("tests/conformance/test_scheduler.py::test_a[slurm]", "slurm"),
        ("tests/clusters/test_arrays.py::test_a[slurm-2]", "arrays of slurm"),
        ("tests/clusters/test_arrays.py::test_a[sge-2]", "sge"),
        ("tests/clusters/test_workers.py::test_a[pbs-2]", "pbs"),
        ("tests/clusters/test_doctor.py::test_a", "slurm"),
        ("tests/clusters/test_systems.py::test_sge_runs_a_job", "sge"),
        ("tests/conformance/test_scheduler.py::test_a[given-dask]", "dask"),
        ("tests/faults/test_limits.py::test_memory_grows_on_dask", "dask"),
        ("tests/unit/executors/test_ray.py::test_a", "ray"),
        ("tests/unit/testing/test_checks.py::test_a", "tests/unit/testing/test_checks.py"),
        ("tests/unit/test_task.py::test_an_array_of_loops[processes]", ""),
        ("tests/unit/test_task.py::test_a", ""),
    ],
)
def test_tests_that_share_a_service_are_one_group(nodeid: str, expected: str) -> None:
    assert group(nodeid) == (expected or nodeid)
