"""`slsml push` to somebody else's registry (Debian's docker-registry), and what other people's programs make of the
image there: skopeo inspects and copies it, umoci unpacks it, podman pulls and runs it."""
import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
import tritonclient.http as th

import helpers
import test_protocol

MODEL = helpers.HERE.parent.parent / "examples/digits/models/v1.onnx"
SERVER = os.environ["SLSML_SERVER"]
USER, PASSWORD = "pusher", "tr0ub4dor-secret"
# bcrypt, the only kind that docker-registry takes, with its least cost: every request pays it.
HTPASSWD = f"{USER}:$2y$04$slsmlslsmlslsmlslsmlsueCwot5GrabFiOaRBQgtDZXDSzb/Aeq2\n"
MANIFESTS = ["application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"]
VERSIONED = ["--source", "https://example.com/digits", "--revision", "c0ffee", "--image-version", "1.2.3"]


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def said(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


# ---------------------------------------------------------------- the registry


class Registry:
    """docker-registry on a port the system picks, and its HTTP API."""

    def __init__(self, folder, accounts=None, auth=None):
        need("docker-registry")
        folder.mkdir()
        settings = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": "127.0.0.1:0", "secret": "of this test"},
        }
        self.headers = {}
        if auth:
            settings["auth"] = auth
        if accounts:
            (folder / "htpasswd").write_text(accounts)
            settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
            token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            self.headers["Authorization"] = f"Basic {token}"
        # JSON is YAML, too.
        (folder / "config.yml").write_text(json.dumps(settings))
        log = folder / "log"
        with open(log, "wb") as out:
            command = ["docker-registry", "serve", str(folder / "config.yml")]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            listens = lambda: re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text()) or self.process.poll()
            found = helpers.eventually(listens, what="docker-registry does not listen", every=0.02)
            assert isinstance(found, re.Match), log.read_text()
            self.port = int(found[1])
        except BaseException:
            self.stop()
            raise
        self.address = f"127.0.0.1:{self.port}"

    def stop(self):
        self.process.kill()
        self.process.wait()

    def get(self, path):
        """The status, the body and the digest that the registry names."""
        headers = {"Accept": ", ".join(MANIFESTS), **self.headers}
        request = urllib.request.Request(f"http://{self.address}/v2/{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read(), answer.headers.get("Docker-Content-Digest")
        except urllib.error.HTTPError as error:
            return error.code, error.read(), None

    def tags(self, repository):
        status, body, _ = self.get(f"{repository}/tags/list")
        assert status in (200, 404), body
        return set(json.loads(body)["tags"] or []) if status == 200 else set()

    def whole(self, repository, reference):
        """The digest of an image of which every byte is there and is what its digest says."""
        status, body, named = self.get(f"{repository}/manifests/{reference}")
        assert (status, named) == (200, digest(body)), (reference, status, named, body)
        document = json.loads(body)
        for manifest in document.get("manifests", []):
            assert self.whole(repository, manifest["digest"]) == manifest["digest"]
        for blob in document.get("layers", []) + [document[key] for key in ["config"] if key in document]:
            status, content, _ = self.get(f"{repository}/blobs/{blob['digest']}")
            assert (status, len(content), digest(content)) == (200, blob["size"], blob["digest"]), blob
        return digest(body)


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    yield registry
    registry.stop()


@pytest.fixture
def guarded(tmp_path):
    """A registry that lets nobody in but one user."""
    registry = Registry(tmp_path / "guarded", HTPASSWD)
    yield registry
    registry.stop()


REQUEST = re.compile(rb"([A-Z]+ /v2/\S*) HTTP/1\.1\r\n")


class Proxy:
    """Stands between slsml and a registry: counts and keeps what is sent, slows it down, breaks connections."""

    def __init__(self, registry, rate=None, halt=None, cut=None):
        self.to, self.rate = registry.port, rate
        # The number of the request that is kept back, with all that would follow.
        self.halt, self.halted = halt, threading.Event()
        # How many bytes of bodies go through before one connection is broken.
        self.cut = cut
        self.lock, self.due = threading.Lock(), time.monotonic()
        self.requests, self.sent, self.sockets = [], bytearray(), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.spawn(self.accept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # close() alone wakes nobody who waits in accept or recv.
        for one in [self.listener, *self.sockets]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def spawn(self, what, *arguments):
        threading.Thread(target=what, args=arguments, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                # Little, so that what is slow here is slow for slsml, too.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                server = socket.create_connection(("127.0.0.1", self.to))
                self.sockets += [client, server]
                self.spawn(self.pump, client, server, self.upstream)
                self.spawn(self.pump, server, client, lambda piece: True)

    def pump(self, source, sink, goes):
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 14):
                if not goes(piece):
                    break
                sink.sendall(piece)
        for one in [source, sink]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def upstream(self, piece):
        with self.lock:
            # A request begins a piece: slsml sends the next one after the answer. Looks at /v2/ change nothing.
            request = REQUEST.match(piece)
            if request and request[1] != b"GET /v2/":
                if self.halt is not None and len(self.requests) >= self.halt:
                    self.halted.set()
                    return False
                self.requests.append(request[1].decode())
            self.sent += piece
            if self.cut is not None and len(self.sent) > self.cut:
                self.cut = None
                return False
            self.due = max(self.due, time.monotonic()) + (len(piece) / self.rate if self.rate else 0)
            wait = self.due - time.monotonic()
        time.sleep(max(0, wait))
        return True


# ---------------------------------------------------------------- slsml


class Image:
    """An image that `slsml package` made."""

    def __init__(self, folder, name, *flags, program=SERVER):
        command = [helpers.slsml_executable(), "--json", "package", MODEL, "--name", "digits", "--target", "cloudrun"]
        self.record = json.loads(said(*command, "--runtime", program, "--out", folder / name, *flags))["built"]["image"]
        self.artifact = folder / name / "digits"
        self.digest = self.record["digest"]

    def blob(self, digest):
        return (self.artifact / "image/blobs" / digest.replace(":", "/")).read_bytes()

    def layer(self, holds, platform=0):
        [layer] = [one for one in self.record["platforms"][platform]["layers"] if one["holds"] == holds]
        return layer["digest"]

    def config(self):
        return json.loads(self.blob(self.record["platforms"][0]["config"]))

    def files(self):
        """Modes, owners and contents of all files, by name."""
        found = {}
        for holds in ["runtime", "model"]:
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(self.blob(self.layer(holds))))) as layer:
                for one in layer:
                    if one.isfile():
                        found[one.name] = (one.mode, one.uid, one.gid, digest(layer.extractfile(one).read()))
        return found


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return Image(tmp_path_factory.mktemp("image"), "one", *VERSIONED)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An image that is pushed quickly; nobody runs it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "program").write_bytes(pathlib.Path(SERVER).read_bytes()[: 1 << 20])
    return Image(folder, "small", *VERSIONED, program=folder / "program")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An image for two processors; nobody here runs the second program."""
    folder = tmp_path_factory.mktemp("index")
    # Its beginning is as much as anybody looks at.
    arm = bytearray(pathlib.Path(SERVER).read_bytes()[: 1 << 20])
    # The processor in an ELF header.
    arm[18:20] = b"\xb7\x00"
    (folder / "arm64").write_bytes(arm)
    return Image(folder, "both", "--arch", "x86_64,arm64", "--runtime", folder / "arm64")


def start_push(artifact, to, *flags, docker="/nonexistent", path=None, **environment):
    # Nothing else of the environment: who runs the tests may be logged in somewhere.
    environment = {"HOME": "/nonexistent", "NO_COLOR": "1", **environment}
    if docker:
        environment["DOCKER_CONFIG"] = str(docker)
    # A log that is asked for must not have secrets either.
    environment |= {"RUST_LOG": "trace", "RUST_BACKTRACE": "1"}
    environment["PATH"] = os.pathsep.join([str(path)] * bool(path) + [os.environ["PATH"]])
    command = [helpers.slsml_executable(), "push", to, "--artifact", str(artifact), *flags]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def push(artifact, to, *flags, code=0, **how):
    process = start_push(artifact, to, "--json", *flags, **how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, f"push ended with {process.returncode}:\n{out}{err}"
    return json.loads(out)


def fates(pushed):
    return {blob["digest"]: blob["fate"] for blob in pushed["blobs"]}


# ---------------------------------------------------------------- what others make of the image


def test_skopeo_sees_the_image_that_was_pushed(registry, image):
    need("skopeo")
    pushed = push(image.artifact, f"{registry.address}/team/digits:latest")
    seen = json.loads(said("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.address}/team/digits:latest"))
    assert pushed["image"] == f"{registry.address}/team/digits@{seen['Digest']}"
    assert seen["Digest"] == image.digest
    assert (seen["Architecture"], seen["Os"]) == ("amd64", "linux")
    assert seen["Layers"] == [image.layer("runtime"), image.layer("model")]
    assert sorted(seen["RepoTags"]) == sorted(pushed["tags"])
    labels = {
        "org.opencontainers.image.title": "digits",
        "org.opencontainers.image.source": "https://example.com/digits",
        "org.opencontainers.image.revision": "c0ffee",
        "org.opencontainers.image.version": "1.2.3",
    }
    assert labels.items() <= seen["Labels"].items(), seen["Labels"]


def test_a_copy_has_the_same_digest_and_unpacks_to_the_program_and_the_model(registry, image, tmp_path):
    need("skopeo", "umoci")
    push(image.artifact, f"{registry.address}/team/digits:latest")
    copy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"]
    said(*copy, f"docker://{registry.address}/team/digits:latest", f"oci:{tmp_path}/copy:latest")
    copied = json.loads((tmp_path / "copy/index.json").read_text())
    assert [one["digest"] for one in copied["manifests"]] == [image.digest]

    is_root = os.geteuid() == 0
    rootless = [] if is_root else ["--rootless"]
    said("umoci", "unpack", *rootless, "--image", f"{tmp_path}/copy:latest", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    there = {}
    for path in root.rglob("*"):
        if path.is_file():
            about = path.stat()
            owner = (about.st_uid, about.st_gid)
            there[str(path.relative_to(root))] = (about.st_mode & 0o7777, *owner, digest(path.read_bytes()))
    built = image.files()
    if not is_root:
        built = {name: (mode, os.geteuid(), os.getegid(), content) for name, (mode, _, _, content) in built.items()}
    assert there == built
    assert set(there) == {"slsml-server", "model/manifest.json", "model/model.slsml"}
    for name, (mode, owner, _, _) in there.items():
        # The container's user owns nothing, so that what others may not write it cannot.
        assert mode & 0o022 == 0 and mode & 0o004, (name, oct(mode))
        assert owner == 0 or not is_root, name
    assert there["slsml-server"][0] & 0o111 == 0o111
    assert (root / "model").stat().st_mode & 0o777 == 0o755
    process = json.loads((tmp_path / "bundle/config.json").read_text())["process"]
    assert process["args"] == ["/slsml-server"] and "SLSML_MODEL_DIR=/model" in process["env"]
    if is_root:
        assert (process["user"]["uid"], process["user"]["gid"]) == (65532, 65532)


def test_podman_pulls_the_image_from_the_registry_and_it_answers(registry, image, tmp_path):
    push(image.artifact, f"{registry.address}/team/digits:latest")
    with helpers.podman(tmp_path) as storage:
        pull = ["pull", "--quiet", "--tls-verify=false", f"{registry.address}/team/digits:latest"]
        name = said(*storage, *pull).strip()
        # podman's name of an image is the digest of its configuration.
        assert f"sha256:{name}" == image.record["platforms"][0]["config"]
        container = test_protocol.Podman(storage, name)
        with th.InferenceServerClient(f"127.0.0.1:{container.port}") as client:
            assert client.is_server_ready()
            answer = test_protocol.ask(th, client, test_protocol.images(2))
        _, code = container.stop()
    probabilities = answer.as_numpy("probabilities")
    assert probabilities.shape == (2, 10) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    assert (answer.as_numpy("class") == probabilities.argmax(axis=1)).all()
    assert code == 0


# ---------------------------------------------------------------- what is sent


def test_what_the_registry_has_is_not_sent_again(registry, image):
    model = image.blob(image.layer("model"))
    with Proxy(registry) as proxy:
        first = push(image.artifact, f"{proxy.address}/team/digits:latest")
        assert set(fates(first).values()) == {"sent"}
        # Otherwise its absence below would say nothing.
        assert model in proxy.sent
    with Proxy(registry) as proxy:
        again = push(image.artifact, f"{proxy.address}/team/digits:latest")
        assert set(fates(again).values()) == {"there"}
        assert [one for one in proxy.requests if one.startswith("POST")] == []
        # Headers and manifests.
        assert len(proxy.sent) < 20_000
    assert again["tags"] == first["tags"]


def test_another_program_goes_without_the_models_bytes(registry, small, tmp_path):
    push(small.artifact, f"{registry.address}/team/digits:latest")
    changed = tmp_path / "slsml-server"
    changed.write_bytes((small.artifact.parents[1] / "program").read_bytes() + bytes(16))
    other = Image(tmp_path, "other", *VERSIONED, program=changed)
    assert other.layer("model") == small.layer("model") and other.layer("runtime") != small.layer("runtime")
    with Proxy(registry) as proxy:
        pushed = push(other.artifact, f"{proxy.address}/team/digits:latest")
        assert small.blob(small.layer("model")) not in proxy.sent
    assert [digest for digest, fate in fates(pushed).items() if fate == "there"] == [small.layer("model")]
    assert registry.whole("team/digits", "latest") == other.digest
    # Whoever pinned the image before has it still.
    assert registry.whole("team/digits", small.digest) == small.digest


def test_blobs_are_taken_over_from_another_repository(registry, small):
    push(small.artifact, f"{registry.address}/team/digits:latest")
    with Proxy(registry) as proxy:
        pushed = push(small.artifact, f"{proxy.address}/shop/numbers:live", "--mount-from", "team/digits")
        assert set(fates(pushed).values()) == {"mounted"}
        assert len(proxy.sent) < 20_000
    assert registry.whole("shop/numbers", "live") == small.digest


def test_a_repository_to_take_blobs_from_that_has_none_costs_nothing_but_the_upload(registry, small):
    pushed = push(small.artifact, f"{registry.address}/shop/numbers:live", "--mount-from", "team/nothing")
    assert set(fates(pushed).values()) == {"sent"}
    assert registry.whole("shop/numbers", "live") == small.digest


def test_an_index_is_pushed_with_one_model_for_both_processors(registry, index):
    need("skopeo")
    pushed = push(index.artifact, f"{registry.address}/team/digits:both")
    # Two programs, two configurations, one model.
    assert len(pushed["blobs"]) == 5
    inspect = ["skopeo", "inspect", "--tls-verify=false"]
    raw = said(*inspect, "--raw", f"docker://{registry.address}/team/digits:both")
    assert pushed["image"].endswith("@" + digest(raw.encode())) and digest(raw.encode()) == index.digest
    document = json.loads(raw)
    assert document["mediaType"] == "application/vnd.oci.image.index.v1+json"
    platforms = [(one["platform"]["os"], one["platform"]["architecture"]) for one in document["manifests"]]
    assert platforms == [("linux", "amd64"), ("linux", "arm64")]
    layers = []
    for one in document["manifests"]:
        manifest = said(*inspect, "--raw", f"docker://{registry.address}/team/digits@{one['digest']}")
        assert (digest(manifest.encode()), len(manifest)) == (one["digest"], one["size"])
        layers.append([layer["digest"] for layer in json.loads(manifest)["layers"]])
    shared = set(layers[0]) & set(layers[1])
    assert shared == {index.layer("model")} and layers[0][0] != layers[1][0]
    for architecture in ["amd64", "arm64"]:
        override = ["skopeo", f"--override-arch={architecture}", *inspect[1:]]
        seen = said(*override, f"docker://{registry.address}/team/digits:both")
        assert json.loads(seen)["Architecture"] == architecture
    assert registry.whole("team/digits", "both") == index.digest


def test_skopeo_copies_an_index_with_all_it_names(registry, index, tmp_path):
    need("skopeo")
    push(index.artifact, f"{registry.address}/team/digits:both")
    copy = ["skopeo", "--insecure-policy", "copy", "--all", "--src-tls-verify=false"]
    said(*copy, f"docker://{registry.address}/team/digits:both", f"oci:{tmp_path}/copy:both")
    copied = json.loads((tmp_path / "copy/index.json").read_text())
    assert [one["digest"] for one in copied["manifests"]] == [index.digest]


def test_every_tag_resolves_to_the_same_image(registry, small):
    to = f"{registry.address}/team/digits:latest"
    pushed = push(small.artifact, to, "--tag", "blue", "--tag", "v1_x.y-z", "--tag", "latest")
    content = small.digest.replace(":", "-")[: len("sha256-") + 12]
    # A tag named twice is set once.
    assert sorted(pushed["tags"]) == sorted([content, "c0ffee", "1.2.3", "latest", "blue", "v1_x.y-z"])
    assert registry.tags("team/digits") == set(pushed["tags"])
    for tag in pushed["tags"]:
        status, body, named = registry.get(f"team/digits/manifests/{tag}")
        assert (status, digest(body), named) == (200, small.digest, small.digest), tag


@pytest.mark.parametrize("to, tag", [("team/digits:la test", None), ("team/digits:latest", "-x"), ("Team/digits", None)])
def test_what_no_registry_would_take_is_refused_before_anything_is_sent(registry, small, to, tag):
    with Proxy(registry) as proxy:
        flags = [f"--tag={tag}"] if tag else []
        push(small.artifact, f"{proxy.address}/{to}", *flags, code=2)
        assert proxy.requests == []


# ---------------------------------------------------------------- pushes that end early


def is_no_tag_or_a_whole_image(registry, repository, image):
    tags = registry.tags(repository)
    for tag in tags:
        # docker-registry lists a tag a moment before it knows what it names, and who was killed did not wait for that.
        named = lambda: registry.get(f"{repository}/manifests/{tag}")
        status, manifest, _ = helpers.eventually(named, lambda answer: answer[0] == 200, what=f"{tag} names nothing")
        assert digest(manifest) == image.digest, tag
    if tags:
        assert registry.whole(repository, image.digest) == image.digest
    return tags


def is_mended(registry, repository, image):
    """The same command goes on, and then everything is there."""
    pushed = push(image.artifact, f"{registry.address}/{repository}:latest")
    assert registry.tags(repository) == set(pushed["tags"])
    assert is_no_tag_or_a_whole_image(registry, repository, image)


def test_manifests_go_after_all_blobs_and_tags_after_manifests(registry, index):
    with Proxy(registry) as proxy:
        pushed = push(index.artifact, f"{proxy.address}/team/digits:both")
        writes = [one for one in proxy.requests if not one.startswith(("GET", "HEAD"))]
    kinds = ["blob" if "/blobs/" in one else "manifest" if "/manifests/sha256:" in one else "tag" for one in writes]
    # Two calls a blob; the index is the third manifest.
    assert kinds == ["blob"] * 10 + ["manifest"] * 3 + ["tag"] * len(pushed["tags"]), writes
    assert writes[12].endswith(index.digest)


def test_a_push_that_is_killed_before_any_of_its_requests_leaves_no_tag_or_a_whole_image(registry, small):
    with Proxy(registry) as proxy:
        push(small.artifact, f"{proxy.address}/team/whole:latest")
        count = len(proxy.requests)
        # All but the tags, of which each is a request.
        before_tags = count - len(registry.tags("team/whole"))
    seen = []
    for at in range(count):
        repository = f"team/killed-{at}"
        with Proxy(registry, halt=at) as proxy:
            process = start_push(small.artifact, f"{proxy.address}/{repository}:latest")
            assert proxy.halted.wait(30), f"request {at} was never made"
            process.kill()
            process.communicate()
        seen.append(len(is_no_tag_or_a_whole_image(registry, repository, small)))
    assert seen == [0] * before_tags + list(range(count - before_tags)), seen
    for at in [0, count // 2, count - 1]:
        is_mended(registry, f"team/killed-{at}", small)


def test_a_push_that_is_killed_at_any_time_leaves_no_tag_or_a_whole_image(registry, image):
    rate = image.record["bytes"] / 0.3
    with Proxy(registry, rate) as proxy:
        began = time.monotonic()
        push(image.artifact, f"{proxy.address}/team/whole:latest")
        whole = time.monotonic() - began
    interrupted = 0
    for nth in range(8):
        repository = f"team/killed-{nth}"
        with Proxy(registry, rate) as proxy:
            process = start_push(image.artifact, f"{proxy.address}/{repository}:latest")
            time.sleep(whole * (nth + 0.5) / 8)
            process.kill()
            process.communicate()
            interrupted += process.returncode == -9
        is_no_tag_or_a_whole_image(registry, repository, image)
        if nth % 3 == 0:
            is_mended(registry, repository, image)
    assert interrupted >= 4, "the pushes were over before they were killed"


def test_a_connection_that_breaks_within_a_blob_is_not_the_end_of_the_push(registry, image):
    with Proxy(registry, cut=image.record["bytes"] // 2) as proxy:
        push(image.artifact, f"{proxy.address}/team/digits:latest")
        assert proxy.cut is None, "nothing was broken"
    assert registry.whole("team/digits", "latest") == image.digest


def test_pushes_of_one_image_at_once_leave_no_tag_or_a_whole_image(registry, small):
    started = [start_push(small.artifact, f"{registry.address}/team/digits:latest") for _ in range(4)]
    for process in started:
        out, err = process.communicate(timeout=60)
        # docker-registry writes links in place, and may read one of another push while it is empty.
        assert process.returncode == 0 or (process.returncode, "status 400" in err) == (4, True), out + err
    is_no_tag_or_a_whole_image(registry, "team/digits", small)
    is_mended(registry, "team/digits", small)


# ---------------------------------------------------------------- credentials


class Tokens:
    """Whom docker-registry sends its callers to for a token, as public registries do: a token is good for what was
    asked for and nothing else."""

    ISSUER, SERVICE = "tests", "registry of the tests"

    def __init__(self, folder):
        need("openssl")
        folder.mkdir()
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        said("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests",
             "-keyout", self.key, "-out", self.certificate)
        self.scopes, tokens = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            # Docker Hub's words.
            REFUSAL = {"details": "incorrect username or password"}

            def do_GET(self):
                asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                is_known = self.headers.get("Authorization") == wanted
                body = json.dumps({"token": tokens.token(asked.get("scope", []))} if is_known else self.REFUSAL)
                self.send_response(200 if is_known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        realm = f"http://127.0.0.1:{self.server.server_port}/token"
        self.settings = {"token": {"realm": realm, "service": self.SERVICE, "issuer": self.ISSUER,
                                   "rootcertbundle": str(self.certificate)}}

    def token(self, scopes):
        self.scopes += scopes
        access = [dict(zip(["type", "name", "actions"], [*scope.split(":")[:2], scope.split(":")[2].split(",")]))
                  for line in scopes for scope in line.split()]
        now = int(time.time())
        claims = {"iss": self.ISSUER, "sub": USER, "aud": self.SERVICE, "access": access, "jti": str(time.monotonic()),
                  "iat": now, "nbf": now - 10, "exp": now + 300}
        der = "".join(self.certificate.read_text().split("-----")[2].split())
        part = lambda content: base64.urlsafe_b64encode(content).rstrip(b"=")
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = b".".join(part(json.dumps(one).encode()) for one in [head, claims])
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        signature = subprocess.run(sign, input=signed, capture_output=True, check=True).stdout
        return (signed + b"." + part(signature)).decode()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def tokened(tmp_path):
    """A registry that wants tokens, and who gives them."""
    tokens = Tokens(tmp_path / "tokens")
    try:
        registry = Registry(tmp_path / "tokened", auth=tokens.settings)
        try:
            yield registry, tokens
        finally:
            registry.stop()
    finally:
        tokens.stop()


def docker(folder, settings):
    """A folder as DOCKER_CONFIG names it."""
    folder.mkdir()
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "config.json").write_text(text)
    return folder


def auths(registry, password=PASSWORD, key="{}"):
    token = base64.b64encode(f"{USER}:{password}".encode()).decode()
    return {"auths": {key.format(registry.address): {"auth": token}}}


def helper(folder, script):
    """A folder for PATH with a credential helper; what it is asked lies beside it."""
    folder.mkdir()
    path = folder / "docker-credential-fake"
    path.write_text(f"#!/bin/sh\necho \"$1\" > {folder}/asked\ncat >> {folder}/asked\n{script}\n")
    path.chmod(0o755)
    return folder


def knows(secret):
    return f"echo '{json.dumps({'ServerURL': '', 'Username': USER, 'Secret': secret})}'"


def refused(registry, image, *secrets, **how):
    """The push is refused, with both kinds of output; neither holds a secret. The error's document."""
    to = f"{registry.address}/team/digits:latest"
    began = time.monotonic()
    started = [start_push(image.artifact, to, *flags, **how) for flags in [[], ["--json"]]]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 4, out + err
        for secret in secrets:
            for shape in [secret, base64.b64encode(f"{USER}:{secret}".encode()).decode()]:
                assert shape not in out + err
        assert "panicked" not in out + err
    # A refusal does not pass, so that it is not tried again.
    assert time.monotonic() - began < 8
    assert registry.tags("team/digits") == set()
    return json.loads(out)["error"]


def test_who_shows_no_credentials_is_told_what_to_type(guarded, small):
    error = refused(guarded, small)
    assert guarded.address in error["message"] and "credentials" in error["message"]
    assert f"docker login {guarded.address}" in error["help"]


@pytest.mark.parametrize("key", ["{}", "http://{}", "https://{}", "https://{}/v1/", "https://{}/v2/"])
def test_what_docker_login_wrote_opens_the_registry(guarded, small, tmp_path, key):
    folder = docker(tmp_path / "docker", auths(guarded, key=key))
    push(small.artifact, f"{guarded.address}/team/digits:latest", docker=folder)
    assert guarded.whole("team/digits", "latest") == small.digest


def test_credentials_of_another_registry_are_not_shown(guarded, small, tmp_path):
    folder = docker(tmp_path / "docker", auths(guarded, key="elsewhere.example.com"))
    with Proxy(guarded) as proxy:
        push(small.artifact, f"{proxy.address}/team/digits:latest", docker=folder, code=4)
        assert proxy.requests and b"authorization" not in proxy.sent.lower()
    # Otherwise its absence above would say nothing.
    with Proxy(guarded) as proxy:
        folder = docker(tmp_path / "own", auths(proxy))
        push(small.artifact, f"{proxy.address}/team/digits:latest", docker=folder)
        assert b"authorization: basic " in proxy.sent.lower()


@pytest.mark.parametrize("how", ["credHelpers", "credsStore"])
def test_a_credential_helper_is_asked_about_this_registry(guarded, small, tmp_path, how):
    settings = {"credHelpers": {guarded.address: "fake"}} if how == "credHelpers" else {"credsStore": "fake"}
    # What docker writes beside a store, and a stale entry that docker would not look at.
    settings["auths"] = {guarded.address: {}} if how == "credsStore" else auths(guarded, "stale")["auths"]
    path = helper(tmp_path / "bin", knows(PASSWORD))
    folder = docker(tmp_path / "docker", settings)
    push(small.artifact, f"{guarded.address}/team/digits:latest", docker=folder, path=path)
    assert guarded.whole("team/digits", "latest") == small.digest
    assert (path / "asked").read_text().split() == ["get", guarded.address]


@pytest.mark.parametrize("how", ["auths", "credHelpers", "credsStore"])
def test_a_wrong_password_is_refused_and_told_to_nobody(guarded, small, tmp_path, how):
    wrong = "wr0ng-horse-battery"
    settings = {
        "auths": auths(guarded, wrong),
        "credHelpers": {"credHelpers": {guarded.address: "fake"}},
        "credsStore": {"credsStore": "fake"},
    }[how]
    path = helper(tmp_path / "bin", knows(wrong))
    error = refused(guarded, small, wrong, docker=docker(tmp_path / "docker", settings), path=path)
    assert f"docker login {guarded.address}" in error["help"]


def test_a_helper_that_knows_nothing_of_a_registry_does_not_close_it(registry, guarded, small, tmp_path):
    # The words by which docker knows that there are none.
    path = helper(tmp_path / "bin", "echo 'credentials not found in native keychain'; exit 1")
    how = {"docker": docker(tmp_path / "docker", {"credsStore": "fake"}), "path": path}
    push(small.artifact, f"{registry.address}/team/digits:latest", **how)
    assert registry.whole("team/digits", "latest") == small.digest
    assert "docker login" in refused(guarded, small, **how)["help"]


def test_a_helper_that_fails_is_told_of_with_its_reason_and_no_secret(guarded, small, tmp_path):
    script = f"{knows(PASSWORD)}; echo 'the keychain is locked' >&2; exit 3"
    how = {"docker": docker(tmp_path / "docker", {"credsStore": "fake"}), "path": helper(tmp_path / "bin", script)}
    error = refused(guarded, small, PASSWORD, **how)
    assert "the keychain is locked" in error["message"]


@pytest.mark.parametrize("script", [f"echo '{PASSWORD}'", f"echo '{{\"Secret\": \"{PASSWORD}\"}}'", "true"])
def test_a_helper_that_talks_nonsense_is_refused_without_repeating_it(guarded, small, tmp_path, script):
    how = {"docker": docker(tmp_path / "docker", {"credsStore": "fake"}), "path": helper(tmp_path / "bin", script)}
    error = refused(guarded, small, PASSWORD, **how)
    assert f"the credentials for {guarded.address} cannot be had" in error["message"]


def test_a_helper_that_is_not_there_is_named(guarded, small, tmp_path):
    settings = {"credHelpers": {guarded.address: "fake"}}
    error = refused(guarded, small, docker=docker(tmp_path / "docker", settings))
    assert "docker-credential-fake" in json.dumps(error)


@pytest.mark.parametrize("text", ["{", "[]", "{\"auths\": 7}"])
def test_settings_of_dockers_that_cannot_be_read_are_told_of(guarded, small, tmp_path, text):
    folder = docker(tmp_path / "docker", text)
    error = refused(guarded, small, docker=folder)
    assert "config.json" in json.dumps(error)


@pytest.mark.parametrize("entry", ["not base64!", base64.b64encode(b"no colon").decode()])
def test_an_entry_of_dockers_that_cannot_be_decoded_is_told_of_and_not_repeated(guarded, small, tmp_path, entry):
    folder = docker(tmp_path / "docker", {"auths": {guarded.address: {"auth": entry}}})
    error = refused(guarded, small, entry, docker=folder)
    assert f"the credentials for {guarded.address} cannot be had" in error["message"]


def test_an_identity_token_is_refused_and_not_repeated(guarded, small, tmp_path):
    token = "0123456789-identity"
    folder = docker(tmp_path / "docker", {"auths": {guarded.address: {"auth": "", "identitytoken": token}}})
    error = refused(guarded, small, token, docker=folder)
    assert "identity token" in error["message"]


def test_a_password_may_have_colons_and_letters_of_any_kind(tmp_path, small):
    password = "a:b:ü✓ \"'\\"
    # The same, under bcrypt.
    registry = Registry(tmp_path / "registry", f"{USER}:$2y$04$slsmlslsmlslsmlslsmlsuHAKkbdfsRggWV8EkDQ.SwNM6Q5nrRh2\n")
    try:
        registry.headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        folder = docker(tmp_path / "docker", auths(registry, password))
        push(small.artifact, f"{registry.address}/team/digits:latest", docker=folder)
        assert registry.whole("team/digits", "latest") == small.digest
    finally:
        registry.stop()


def test_docker_hubs_credentials_are_looked_up_as_docker_stores_them(small, tmp_path):
    # It fails, so that nobody is called.
    path = helper(tmp_path / "bin", "echo locked >&2; exit 3")
    folder = docker(tmp_path / "docker", {"credsStore": "fake"})
    push(small.artifact, "docker.io/team/digits:latest", docker=folder, path=path, code=4)
    assert (path / "asked").read_text().split() == ["get", "https://index.docker.io/v1/"]


@pytest.mark.parametrize("named", [None, ""])
def test_without_a_name_for_it_dockers_folder_is_the_one_at_home(guarded, small, tmp_path, named):
    docker(tmp_path / ".docker", auths(guarded))
    # An empty variable is none to docker.
    how = {} if named is None else {"DOCKER_CONFIG": named}
    push(small.artifact, f"{guarded.address}/team/digits:latest", docker=None, HOME=str(tmp_path), **how)
    assert guarded.whole("team/digits", "latest") == small.digest


def entitle(registry, tokens, *repositories):
    scopes = [f"repository:{one}:pull" for one in repositories]
    registry.headers["Authorization"] = f"Bearer {tokens.token(scopes)}"


def test_a_registry_that_wants_tokens_gets_one_for_the_repository_alone(tokened, small, tmp_path):
    registry, tokens = tokened
    with Proxy(registry) as proxy:
        # The proxy's name is the registry's to slsml.
        folder = docker(tmp_path / "named", auths(proxy))
        push(small.artifact, f"{proxy.address}/team/digits:latest", docker=folder)
        # The password went to who gives tokens, and to nobody else.
        assert b"Basic " not in proxy.sent and b"Bearer " in proxy.sent
    assert set(tokens.scopes) - {"repository:team/digits:pull"} == {"repository:team/digits:pull,push"}
    entitle(registry, tokens, "team/digits")
    assert registry.whole("team/digits", "latest") == small.digest


def test_who_gets_no_token_is_told_what_to_type(tokened, small, tmp_path):
    registry, tokens = tokened
    wrong = "wr0ng-horse-battery"
    entitle(registry, tokens, "team/digits")
    for name, settings in [("none", {}), ("wrong", auths(registry, wrong))]:
        error = refused(registry, small, wrong, docker=docker(tmp_path / name, settings))
        assert f"docker login {registry.address}" in error["help"]


def test_blobs_are_taken_over_from_another_repository_where_tokens_are_for_repositories(tokened, small, tmp_path):
    registry, tokens = tokened
    folder = docker(tmp_path / "docker", auths(registry))
    push(small.artifact, f"{registry.address}/team/digits:latest", docker=folder)
    pushed = push(small.artifact, f"{registry.address}/shop/numbers:live", "--mount-from", "team/digits", docker=folder)
    entitle(registry, tokens, "shop/numbers")
    assert registry.whole("shop/numbers", "live") == small.digest
    assert set(fates(pushed).values()) == {"mounted"}
