"""What runs the containers of the local Cloud Run: podman where it works, else sandboxed processes."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import urllib.request

import pytest

import helpers


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return helpers.package_image(tmp_path_factory.mktemp("image"))


@contextlib.contextmanager
def local_cloud(folder, **how):
    cloud = helpers.LocalCloud(folder / "state")
    try:
        yield cloud.up(0, **how)
    finally:
        cloud.down()


def deploy(cloud, artifact, *more, code=0):
    return cloud.slsml(
        "deploy", "cloudrun", "--artifact", str(artifact), "--public", "--strategy", "all-at-once", *more, code=code
    )


def ready(cloud):
    address = cloud.slsml("status", "--service", "digits")["address"]
    with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=20) as answer:
        return answer.status


def log(cloud):
    """What the containers of the revision printed."""
    return "".join(path.read_text() for path in cloud.directory.glob("logs/cloudrun/**/*.log"))


def kill(cloud):
    """Ends the local cloud as a crash would."""
    os.kill(cloud.status()["pid"], signal.SIGKILL)
    helpers.eventually(lambda: not cloud.status()["running"], seconds=10)


@pytest.fixture
def podman(tmp_path, monkeypatch):
    """podman as slsml finds it, with settings that let it run in a container of its own; lists containers."""
    with helpers.podman(tmp_path):
        settings = tmp_path / "containers.conf"
        runtime = '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n' if helpers.shutil.which("runc") else ""
        limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        settings.write_text(runtime + limits)
        monkeypatch.setenv("CONTAINERS_CONF", str(settings))

        def containers():
            listed = subprocess.check_output(["podman", "ps", "--all", "--quiet"], text=True).split()
            # One may have ended since then. Those of this test have their files in its folder.
            found = [subprocess.run(["podman", "inspect", one], capture_output=True, text=True) for one in listed]
            found = [json.loads(one.stdout)[0] for one in found if one.returncode == 0]
            return [one for one in found if str(tmp_path) in json.dumps(one)]

        yield containers
        for left in containers():
            subprocess.run(["podman", "rm", "--force", "--time", "0", left["Id"]], check=True, capture_output=True)


def test_podman_runs_the_image_with_its_limits_and_leaves_nothing(podman, artifact, tmp_path):
    with local_cloud(tmp_path, containers="auto") as cloud:
        deploy(cloud, artifact, "--memory", "1Gi", "--cpu", "1", "--min-instances", "1")
        if "podman runs no container here" in log(cloud):
            pytest.skip(f"podman runs no container here: {log(cloud)}")
        assert ready(cloud) == 200
        [container] = podman()
        assert container["HostConfig"]["Memory"] == 1 << 30
        assert container["HostConfig"]["NanoCpus"] == 1_000_000_000
        assert container["Config"]["User"] == "65532:65532"
        # The port is the one Cloud Run has, and no other process is seen.
        assert "listening on port 8080" in log(cloud)
        kill(cloud)
        assert len(podman()) == 1, "podman's containers outlive whoever started them"
        cloud.up(0, containers="auto")
        assert ready(cloud) == 200
        [again] = podman()
        assert again["Id"] != container["Id"]
    assert podman() == []


def test_an_idle_container_of_podmans_is_told_to_stop_and_drains(podman, artifact, tmp_path):
    with local_cloud(tmp_path, containers="auto") as cloud:
        cloud.down()
        cloud.up(0, "--idle-s", "1", containers="auto")
        deploy(cloud, artifact)
        if "podman runs no container here" in log(cloud):
            pytest.skip(f"podman runs no container here: {log(cloud)}")
        helpers.eventually(lambda: podman(), until=lambda found: found == [], what="containers")
        assert "told to stop; requests in flight are answered" in log(cloud)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A podman that runs nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "podman"
    program.write_text("#!/bin/sh\necho 'Error: no subuid ranges found' >&2\nexit 125\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_where_podman_runs_nothing_a_process_takes_its_place(broken, artifact, tmp_path):
    with local_cloud(tmp_path, containers="auto") as cloud:
        deploy(cloud, artifact)
        assert ready(cloud) == 200
        assert "Error: no subuid ranges found\npodman runs no container here: a sandboxed process" in log(cloud)


def test_who_wants_podman_is_told_that_it_runs_nothing(broken, artifact, tmp_path):
    with local_cloud(tmp_path, containers="podman") as cloud:
        said = deploy(cloud, artifact, code=4)
        assert "is not ready and cannot serve traffic" in said["error"]["message"], said
        assert "Error: no subuid ranges found" in log(cloud)


def test_a_process_that_a_killed_cloud_left_is_ended_by_the_next(artifact, tmp_path):
    def processes(cloud):
        rootfs = str((cloud.directory / "rootfs").resolve())
        roots = {}
        for process in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                roots[process.name] = os.readlink(process / "root")
        return {name for name, root in roots.items() if root.startswith(rootfs)}

    with local_cloud(tmp_path) as cloud:
        deploy(cloud, artifact, "--min-instances", "1")
        before = processes(cloud)
        assert len(before) == 1
        kill(cloud)
        assert processes(cloud) == before
        cloud.up(0)
        assert ready(cloud) == 200
        after = processes(cloud)
        assert len(after) == 1 and after != before
    helpers.eventually(lambda: processes(cloud), until=lambda found: not found)
