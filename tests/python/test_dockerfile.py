"""The Dockerfile that `slsml package --emit dockerfile` writes: hadolint finds nothing in it, and podman builds
from it an image with the files of the one slsml makes."""
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

import helpers


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    flags = ["--emit", "dockerfile", "--source", "https://example.com/a?b=$c"]
    return helpers.package_image(tmp_path_factory.mktemp("dockerfile"), *flags)


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
    with helpers.podman(tmp_path) as storage:
        build = ["build", "--isolation", "chroot", "--tag", "built", str(artifact / "docker")]
        run = subprocess.run(storage + build, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        config = json.loads(subprocess.check_output(storage + ["image", "inspect", "built"]))[0]["Config"]
        save = ["save", "--format", "oci-dir", "--output", str(tmp_path / "oci"), "built"]
        subprocess.run(storage + save, check=True, capture_output=True)

    ours, own = image(artifact / "image")
    theirs, _ = image(tmp_path / "oci")
    assert theirs == ours
    config["Labels"] = {key: value for key, value in config["Labels"].items() if not key.startswith("io.buildah")}
    for field in ["User", "Entrypoint", "ExposedPorts", "StopSignal", "Labels"]:
        assert config[field] == own[field], field
    assert "SLSML_MODEL_DIR=/model" in config["Env"]
