"""The launch files: sound as text, consistent with the commands they start, and really run on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from homegrown.bench.doctor.report import read
from homegrown.cli.common import load_train_config
from homegrown.cli.main import COMMANDS

from ..parallel.spawn import free_port

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
TORCHRUN, SLURM, KUBERNETES = LAUNCH / "torchrun.sh", LAUNCH / "slurm.sbatch", LAUNCH / "kubernetes.yaml"
SCRIPTS = [TORCHRUN, SLURM]

DOCTOR = ("doctor", "--quick", "--device", "cpu")


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}}
    return subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip


def resources() -> dict[str, dict[str, Any]]:
    return {item["kind"]: item for item in yaml.safe_load_all(KUBERNETES.read_text())}


def container() -> dict[str, Any]:
    (only,) = resources()["Job"]["spec"]["template"]["spec"]["containers"]
    return only


def variables_read(script: Path) -> set[str]:
    """Names that a script takes from its environment, with a default or not."""
    text = re.sub(r"^\s*#.*", "", script.read_text(), flags=re.MULTILINE)
    return set(re.findall(r"\$\{?([A-Z][A-Z_]+)", text))


# As text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    done = run("bash", "-n", script)
    assert done.returncode == 0, done.stderr
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK)


def test_torchrun_takes_the_options_it_is_given() -> None:
    text = "\n".join(line for line in TORCHRUN.read_text().splitlines() if not line.lstrip().startswith("#"))
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", text))
    assert len(options) > 8
    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert options <= known


def test_examples_name_commands_there_are() -> None:
    known = {command.name for group in COMMANDS.values() for command in group}
    for file in (*SCRIPTS, KUBERNETES):
        named = re.findall(r"(?:torchrun\.sh|slurm\.sbatch) ([a-z]+) ", file.read_text())
        assert set(named) <= known
    assert container()["args"][0] == "train"


# Kubernetes


def test_kubernetes_pods_find_each_other() -> None:
    found = resources()
    service, job = found["Service"], found["Job"]
    pod = job["spec"]["template"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    values = {item["name"]: item.get("value") for item in container()["env"]}
    assert values["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(values["NNODES"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > 100, "torchrun waits 100 s for its processes to save"


def test_kubernetes_sets_what_the_script_reads() -> None:
    assert container()["command"] == [str(TORCHRUN.relative_to(ROOT))]
    assert {item["name"] for item in container()["env"]} <= variables_read(TORCHRUN)


def test_kubernetes_mounts_what_it_uses() -> None:
    pod = resources()["Job"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert container()["args"][1] == f"{mounts['config']}/run.toml"
    config = resources()["ConfigMap"]["data"]["run.toml"]
    paths = re.findall(r'"(/[^"]+)"', config)
    assert len(paths) == 2
    assert all(path.startswith(mounts["work"]) for path in paths)


def test_kubernetes_trains_with_a_config_and_flags_that_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(resources()["ConfigMap"]["data"]["run.toml"])
    command, _, *flags = container()["args"]
    config = load_train_config([str(file), *flags], command)
    assert (config.run, config.steps, config.log_every) == (Path("/mnt/homegrown/runs/first"), 2000, 10)


# Really run


def test_torchrun_says_what_it_needs() -> None:
    asked = run(TORCHRUN)
    assert asked.returncode == 2
    assert asked.stderr.startswith("Runs a homegrown command as one process per accelerator")
    for variables, missing in (({}, "NODE_RANK"), ({"NODE_RANK": "1"}, "MASTER_ADDR")):
        done = run(TORCHRUN, "train", NNODES="2", PROCESSES="1", **variables)
        assert done.returncode == 1
        assert f"{missing}: is needed with NNODES > 1" in done.stderr


@pytest.mark.slow
def test_torchrun_on_one_host(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run(TORCHRUN, *DOCTOR, "--json", file, PROCESSES="2")
    assert done.returncode == 0, done.stderr
    assert "verdict: healthy" in done.stdout
    assert [(node.rank, node.origin.threads) for node in read(file).nodes] == [(0, 1), (1, 1)]


SRUN = """#!/usr/bin/env bash
# Stands for Slurm: the command on both of two hosts at once.
[ "$1" = --kill-on-bad-exit=1 ] || exit 9
shift
SLURM_NODEID=1 "$@" &
other=$!
SLURM_NODEID=0 "$@" && wait $other
"""

SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames localhost,other" ] && printf 'localhost\\nother\\n'
"""


@pytest.mark.slow
def test_slurm_on_two_hosts(tmp_path: Path) -> None:
    """The batch script as Slurm starts it, with stand-ins for `srun` and `scontrol`; two agents meet by address."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    file = tmp_path / "report.json"
    done = run(
        SLURM, *DOCTOR, "--json", file,
        PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", SLURM_SUBMIT_DIR=str(ROOT), LOGS=str(tmp_path / "logs"),
        SLURM_JOB_ID=str(free_port() % 20000), SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="localhost,other",
        PROCESSES="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [node.rank for node in read(file).nodes] == [0, 1]
    logs = [path.read_text() for path in (tmp_path / "logs").rglob("stdout.log")]
    assert sorted(bool(log) for log in logs) == [False, True], "a file each; only rank 0 has something to say"
    assert done.stdout.count("verdict: healthy") == 1
