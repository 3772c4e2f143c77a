"""The image as a cluster runs it: user 1000, a read-only root, no capabilities. Needs a Docker engine that holds it
(`make image`); NVEMBED_IMAGE names another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "nvembed.yaml"
IMAGE = os.environ.get("NVEMBED_IMAGE", "nvembed:0.1.0")
LOCKED = ("--network=host", "--read-only", "--tmpfs=/tmp", "--env=HOME=/tmp", "--user=1000:1000", "--cap-drop=ALL")
REGISTERED = "mlartifacts/models/*/artifacts/artifacts/nvembed-tiny/model.safetensors"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def docker(*arguments: str, timeout: float = 3000) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    if shutil.which("docker") is None or docker("info").returncode != 0:
        pytest.skip("no Docker engine answers")
    if docker("image", "inspect", IMAGE).returncode != 0:
        pytest.skip(f"the Docker engine has no image {IMAGE}; `make image` makes it")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A volume that user 1000 can write, whoever runs the tests."""
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    before = os.umask(0)
    yield folder
    os.umask(before)


def inside(*command: str, state: Path | None = None) -> subprocess.CompletedProcess[str]:
    volume = ("--volume", f"{state}:/state", "--env=NVEMBED_STATE=/state") if state else ()
    return docker("run", "--rm", *LOCKED, "--security-opt=no-new-privileges", *volume, IMAGE, *command)


def test_it_says_its_version_and_its_user_is_nobody_special() -> None:
    assert inside("nvembed", "--version").stdout.split()[-1] == "0.1.0"
    assert inside("id", "-u").stdout == "1000\n"
    assert inside("sh", "-c", "touch /home/nvembed/probe /opt/nvembed/probe").returncode != 0
    assert inside("sh", "-c", "command -v gcc cc g++ c++").returncode != 0


def test_nothing_of_it_can_be_changed_by_its_user_even_where_the_root_is_not_read_only() -> None:
    places, look = "/opt /usr /etc /var/lib", "-xdev -writable ! -type l -print 2>/dev/null"
    find = f"find {places} {look}; find /tmp {look}"  # the last is a control: there it finds something
    done = docker("run", "--rm", "--network=none", "--user=1000:1000", IMAGE, "sh", "-c", find)
    assert done.stdout.split() == ["/tmp"]


def test_the_doctor_finds_it_well(state: Path) -> None:
    done = inside("nvembed", "doctor", state=state)
    assert done.returncode == 0, done.stdout + done.stderr
    (check,) = json.loads(docker("image", "inspect", IMAGE, "--format", "[{{json .Config.Healthcheck}}]").stdout)
    assert check["Test"] == ["CMD", "nvembed", "doctor"]


def test_the_tiny_pipeline_runs(state: Path) -> None:
    done = inside("nvembed", "run", "--recipe", "tiny", "--output-dir", "/state/out", state=state)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nvembed-tiny" in done.stdout
    assert len(list(state.glob(f"out/{REGISTERED}"))) == 1


def test_each_component_runs_in_it_through_kfps_docker_runner(state: Path, tmp_path: Path) -> None:
    """KFP reports success for containers that failed, so what counts is what they put out."""
    import yaml
    from docker.types import Mount
    from kfp import components, local

    from nvembed.core.artifacts import read_manifest

    root = tmp_path / "runs"
    root.mkdir()
    root.chmod(0o777)
    local.init(
        local.DockerRunner(
            user="1000:1000",
            network_mode="host",
            read_only=True,
            cap_drop=["ALL"],
            tmpfs={"/tmp": "size=2g"},
            mounts=[Mount("/state", str(state), type="bind")],
            environment={
                "HOME": "/tmp",
                "NVEMBED_STATE": "/state",
                "MLFLOW_TRACKING_URI": "sqlite:////state/mlflow.db",
                "KFP_RUN_ID": "in-the-image",
            },
        ),
        pipeline_root=str(root),
        enable_caching=False,
    )
    text = PIPELINE.read_text(encoding="utf-8")
    image = "'{{$.inputs.parameters[''pipelinechannel--image'']}}'"  # the local runner fills in no image
    assert image in text
    components.load_component_from_text(text.replace(image, IMAGE))(recipe="tiny", image=IMAGE)

    spec = next(yaml.safe_load_all(text))
    executors = {name.removeprefix("exec-") for name in spec["deploymentSpec"]["executors"]}
    ran = {file.parent.name for file in root.glob("**/executor_output.json")}
    assert executors == ran and len(ran) > 10
    for folder in root.glob("**/manifest.json"):
        read_manifest(folder.parent, verify=True)
    assert len(list(state.glob(REGISTERED))) == 1
