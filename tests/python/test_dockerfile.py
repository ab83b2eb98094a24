"""The Dockerfile that `slsml package --emit dockerfile` writes: hadolint finds nothing in it, and podman builds
from it an image with the files of the one slsml makes."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import pytest

import helpers


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dockerfile")
    model = helpers.HERE.parent.parent / "examples/digits/models/v1.onnx"
    command = [helpers.slsml_executable(), "--json", "package", str(model), "--name", "digits"]
    command += ["--target", "cloudrun", "--runtime", os.environ["SLSML_SERVER"], "--emit", "dockerfile"]
    command += ["--source", "https://example.com/a?b=$c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "dist/digits"


def test_hadolint_finds_nothing(artifact):
    hadolint = pathlib.Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, artifact / "docker/Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def files(archive):
    """Paths, sizes and modes of the files in an unpacked image's archive."""
    with tarfile.open(archive) as opened:
        return {one.name.strip("/"): (one.size, one.mode & 0o777) for one in opened if one.isfile()}


def image(layout):
    """The files and the configuration of the image in a layout."""

    def blob(digest):
        return layout / "blobs" / digest.replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    found = {}
    for layer in manifest["layers"]:
        found.update(files(blob(layer["digest"])))
    return found, json.loads(blob(manifest["config"]["digest"]).read_text())["config"]


def test_podman_builds_the_same_image(artifact, tmp_path):
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    # podman takes no long path for what it keeps while it runs.
    short = tempfile.TemporaryDirectory(prefix="pm-")
    storage = ["podman", "--root", str(tmp_path / "root"), "--runroot", short.name, "--storage-driver", "vfs"]
    try:
        build = ["build", "--isolation", "chroot", "--tag", "built", str(artifact / "docker")]
        run = subprocess.run(storage + build, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        config = json.loads(subprocess.check_output(storage + ["image", "inspect", "built"]))[0]["Config"]
        save = ["save", "--format", "oci-dir", "--output", str(tmp_path / "oci"), "built"]
        subprocess.run(storage + save, check=True, capture_output=True)
    finally:
        subprocess.run(storage + ["rmi", "--all", "--force"], capture_output=True)
        short.cleanup()

    ours, own = image(artifact / "image")
    theirs, _ = image(tmp_path / "oci")
    assert theirs == ours
    config["Labels"] = {key: value for key, value in config["Labels"].items() if not key.startswith("io.buildah")}
    for field in ["User", "Entrypoint", "ExposedPorts", "StopSignal", "Labels"]:
        assert config[field] == own[field], field
    assert "SLSML_MODEL_DIR=/model" in config["Env"]
