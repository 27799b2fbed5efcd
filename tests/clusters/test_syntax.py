"""The real commands read in a script what was meant: names, paths, walltimes and memory of any kind."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amlsched.batch_systems import SYSTEMS, WORKER_SYSTEMS, ArrayJob
from tests.clusters.site import said
from tests.values import examples

NAMES = st.text(st.sampled_from(" \"'\\#%$`:,;&|*?[](){}<>~!=+@-_./aZ0é"), min_size=1, max_size=12)
NAMES = NAMES.filter(lambda text: text == text.strip())
PARTS = NAMES.map(lambda text: text.replace("/", "-")).filter(lambda text: text not in (".", ".."))
MIB = 2**20


def _script(system: str, job: ArrayJob, folder: Path) -> Path:
    """A file with the script; the example is skipped if it has a value that the system does not take."""
    try:
        text = SYSTEMS[system].script(job) if SYSTEMS[system].marker else SYSTEMS[system].description(job, folder / "x")
    except ValueError:
        assume(False)
        raise
    path = folder / "job.sh"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slurm
@given(name=NAMES, part=PARTS, seconds=st.integers(1, 10**6), memory=st.integers(1, 2**34), account=NAMES)
@examples(12)
def test_sbatch(tmp_path: Path, name: str, part: str, seconds: int, memory: int, account: str) -> None:
    folder = tmp_path / part
    folder.mkdir(exist_ok=True)
    job = ArrayJob(name, ("true",), 1, folder, folder, time_s=seconds, memory_bytes=memory, account=account, warn_s=0)
    submitted = said("sbatch", "--parsable", "--hold", str(_script("slurm", job, tmp_path))).strip()

    def shown(field: str) -> str:
        return said("squeue", "--noheader", f"--jobs={submitted}", f"--format={field}").removesuffix("\n").strip(" ")

    try:
        assert shown("%j") == name
        assert shown("%Z") == str(folder)
        assert shown("%a") == account.lower()  # Slurm has no others
        assert _bytes(shown("%m")) == -(-memory // MIB) * MIB
        limit = WORKER_SYSTEMS["slurm"].seconds
        assert limit is not None
        assert 0 <= (limit(shown("%l")) or 0) - seconds < 60  # it counts in minutes
    finally:
        said("scancel", submitted)


def _bytes(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"K": 2**10, "M": MIB, "G": 2**30, "T": 2**40}[unit or "M"]


@pytest.mark.slurm
@pytest.mark.parametrize(
    "walltime",
    ["90", "1:30", "1:30:00", "1-12", "1-12:30", "1-12:30:15", "0:30", "UNLIMITED", "infinite", "0", "-1", "1:99:99"],
)
def test_a_walltime_of_sbatch(walltime: str) -> None:
    submitted = said("sbatch", "--parsable", "--hold", f"--time={walltime}", "--wrap=true").strip()
    try:
        shown = said("squeue", "--noheader", f"--jobs={submitted}", "--format=%l").strip()
    finally:
        said("scancel", submitted)
    read = WORKER_SYSTEMS["slurm"].seconds
    assert read is not None
    ours, theirs = read(walltime), read(shown)
    assert ours is not None
    assert theirs is not None
    assert ours == theirs or 0 <= theirs - ours < 60


@pytest.mark.sge
@given(name=NAMES, part=PARTS, seconds=st.integers(1, 10**6), memory=st.integers(1, 2**34))
@examples(10)
def test_qsub_of_grid_engine(tmp_path: Path, name: str, part: str, seconds: int, memory: int) -> None:
    folder = tmp_path / part
    folder.mkdir(exist_ok=True)
    name = SYSTEMS["sge"].syntax.fitting_name(name)
    job = ArrayJob(name, ("true",), 1, folder, folder, time_s=seconds, memory_bytes=memory)
    submitted = said("qsub", "-terse", "-h", "-w", "n", str(_script("sge", job, tmp_path))).strip().partition(".")[0]
    try:
        shown = dict(re.findall(r"^([\w ]+):[ \t]+(.*)$", said("qstat", "-j", submitted), re.MULTILINE))
        assert shown["job_name"] == name
        assert shown["cwd"] == str(folder)
        assert shown["stdout_path_list"] == f"NONE:NONE:{folder}/out_$JOB_ID.$TASK_ID.log"
        assert dict(one.split("=") for one in shown["hard resource_list"].split(",")) == {
            "h_rt": str(seconds),
            "h_vmem": f"{-(-memory // MIB)}M",
        }
    finally:
        said("qdel", submitted)


@pytest.mark.sge
@pytest.mark.parametrize("walltime", ["90", "1:30:00", ":90:", "1::1", "0x10", "010", "0:90:00", "INFINITY"])
def test_a_walltime_of_grid_engine(tmp_path: Path, walltime: str) -> None:
    (tmp_path / "job.sh").write_text("true\n")
    words = ("qsub", "-terse", "-h", "-w", "n", "-l", f"h_rt={walltime}", str(tmp_path / "job.sh"))
    submitted = said(*words).strip()
    try:
        shown = re.search(r"h_rt=(\w+)", said("qstat", "-j", submitted))
    finally:
        said("qdel", submitted)
    read = WORKER_SYSTEMS["sge"].seconds
    assert read is not None
    assert shown
    assert read(walltime) == float(shown[1].lower().replace("infinity", "inf"))


@pytest.mark.htcondor
@given(name=NAMES, part=PARTS, memory=st.integers(1, 2**34))
@examples(10)
def test_condor_submit(tmp_path: Path, name: str, part: str, memory: int) -> None:
    assume('\\"' not in name + part)  # it prints them like a quote alone
    folder = tmp_path / part
    folder.mkdir(exist_ok=True)
    (tmp_path / "x").write_text("#!/bin/sh\n")
    (tmp_path / "x").chmod(0o755)
    job = ArrayJob(name, ("true",), 1, folder, folder, memory_bytes=memory, warn_s=0)
    text = said("condor_submit", "-dry-run", "-", str(_script("htcondor", job, tmp_path)))
    shown = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert _classad(shown["JobBatchName"]) == name
    assert _classad(shown["Iwd"]) == str(folder)
    assert _classad(shown["Out"]).startswith(f"{folder}/out_")
    assert shown["RequestMemory"] == str(-(-memory // MIB))


def _classad(text: str) -> str:
    return text[1:-1].replace('\\"', '"')


@pytest.mark.sge
def test_grid_engine_leaves_out_hosts() -> None:
    """`-w v` says whether a job could ever start, without submitting it."""
    here = said("qconf", "-sel").split()[0]

    def could_start(hosts: list[str], *directives: str) -> bool:
        words = [word for one in directives for word in one.split()]
        options = WORKER_SYSTEMS["sge"].leave_out(hosts, directives)
        done = subprocess.run(["qsub", "-w", "v", *words, *options, "-b", "y", "true"], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        assert ("no suitable queues" in done.stdout + done.stderr) == (done.returncode == 1), done
        return done.returncode == 0

    assert could_start(["elsewhere", "nowhere"])
    assert not could_start([here])
    assert not could_start(["elsewhere", here])
    assert could_start(["elsewhere"], f"-l h={here}")
    assert not could_start(["elsewhere"], "-l h=another")


@pytest.mark.htcondor
def test_htcondor_leaves_out_hosts(tmp_path: Path) -> None:
    here = said("condor_status", "-autoformat", "Machine").split()[0]

    def could_start(hosts: list[str], requirements: str) -> bool:
        """By the description that `condor_submit` makes, without submitting it."""
        path = tmp_path / "job.sub"
        path.write_text(f"executable = /bin/true\nrequirements = {requirements}\nqueue\n")
        options = WORKER_SYSTEMS["htcondor"].leave_out(hosts, [f"requirements = {requirements}"])
        ads = tmp_path / "ads"
        said("condor_submit", "-dry-run", str(ads), *options, str(path))
        found = re.search(r"^Requirements=(.*)$", ads.read_text(), re.MULTILINE | re.IGNORECASE)
        assert found is not None
        plain = re.sub(r"TARGET\.", "", found[1]).partition(" && (Arch ")[0]
        return bool(said("condor_status", "-constraint", plain, "-autoformat", "Machine").strip())

    assert could_start(["elsewhere", "nowhere"], "Memory > 1")
    assert not could_start([here, "nowhere"], "Memory > 1")
    assert not could_start(["elsewhere"], "Memory < 1")
