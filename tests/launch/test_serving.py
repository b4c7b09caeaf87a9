"""The manifest of a served model: consistent with itself and with the command that it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from homegrown.cli.serve import SECRET, Serve, keys_of, launch_of, options_of
from homegrown.cli.serve import secret as read_secret
from homegrown.serve.http.authentication import OPEN
from homegrown.serve.http.server import _CLOSE_S
from homegrown.serve.worker.protocol import world_size

SERVING = Path(__file__).parents[2] / "launch" / "serving.yaml"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return {item["kind"]: item for item in yaml.safe_load_all(SERVING.read_text())}


@pytest.fixture(scope="module")
def pod(found: dict[str, Any]) -> dict[str, Any]:
    return found["Deployment"]["spec"]["template"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["spec"]["containers"]
    return only


@pytest.fixture(scope="module")
def args(container: dict[str, Any]) -> Serve:
    assert container["command"] == ["homegrown", "serve"]
    return tyro.cli(tyro.conf.OmitArgPrefixes[Serve], args=container["args"])


def test_arguments_are_accepted(args: Serve) -> None:
    launch, options = launch_of(args), options_of(args, "longcat", keys=True)
    assert (launch.directory, launch.tp, launch.ep, launch.options.memory) == ("/mnt/models/longcat", 8, 8, 16 * 10**9)
    assert (options.drain_s, options.log, options.replica) == (120, "json", "$(POD_NAME)")
    assert not args.access.open


def test_an_accelerator_for_each_process(container: dict[str, Any], args: Serve) -> None:
    (count,) = container["resources"]["limits"].values()
    assert count == world_size(args.processes.tp, args.processes.ep) * (1 + args.processes.prefill_workers)


def test_traffic_comes_to_the_port(found: dict[str, Any], pod: dict[str, Any], container: dict[str, Any], args) -> None:
    service, (port,) = found["Service"]["spec"], container["ports"]
    assert port["containerPort"] == args.address.port
    assert service["ports"][0]["targetPort"] == port["name"]
    labels = pod["metadata"]["labels"].items()
    selectors = [service["selector"], found["Deployment"]["spec"]["selector"]["matchLabels"]]
    selectors.append(found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    assert all(selector.items() <= labels for selector in selectors)
    assert service["sessionAffinity"] == "ClientIP"
    assert found["Deployment"]["spec"]["replicas"] > found["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_probes_ask_what_needs_no_key(container: dict[str, Any]) -> None:
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    assert set(paths.values()) <= OPEN
    assert {container[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {container["ports"][0]["name"]}


def test_there_is_time_to_drain(pod: dict[str, Any], container: dict[str, Any], args: Serve) -> None:
    word, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert word == "sleep"
    assert pod["spec"]["terminationGracePeriodSeconds"] >= int(seconds) + args.load.drain_s + _CLOSE_S
    probe = container["readinessProbe"]
    assert int(seconds) > probe["periodSeconds"] * probe["failureThreshold"]


def test_it_mounts_what_it_uses(pod: dict[str, Any], container: dict[str, Any], args: Serve) -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert str(args.model).startswith(mounts["models"])
    assert str(args.records.state) == mounts["state"]
    assert str(args.access.keys) == f"{mounts['keys']}/{volumes['keys']['secret']['items'][0]['path']}"


def test_secrets_are_those_that_are_made(
    pod: dict[str, Any], container: dict[str, Any], args: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The commands at the top of the file make them; `$(openssl rand -hex 32)` is long enough to be one."""
    (command,) = [line for line in SERVING.read_text().splitlines() if "create secret" in line]
    env = {item["name"]: item["valueFrom"] for item in container["env"]}
    reference = env[SECRET]["secretKeyRef"]
    assert f"generic {reference['name']} " in command
    assert f"--from-literal={reference['key']}=" in command
    (keys,) = [volume["secret"] for volume in pod["spec"]["volumes"] if volume["name"] == "keys"]
    assert keys["secretName"] == reference["name"]
    assert f"--from-file={keys['items'][0]['key']}" in command
    assert f"$({next(name for name in env if name != SECRET)})" == args.records.replica
    monkeypatch.setenv(SECRET, "0" * 64)
    assert read_secret() == "0" * 64


def test_the_keys_come_from_the_command(capsys: pytest.CaptureFixture[str], args: Serve, tmp_path: Path) -> None:
    """What `homegrown serve key` prints is what `--keys` reads."""
    from dataclasses import replace

    from homegrown.cli.main import main

    assert main(["serve", "key", "ada"]) == 0
    file = tmp_path / "keys.toml"
    file.write_text(capsys.readouterr().out)
    assert len(keys_of(replace(args, access=replace(args.access, keys=file)))) == 1
