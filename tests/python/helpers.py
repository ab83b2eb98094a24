"""What the tests share: zips, the local cloud as a process, polling, refusals."""
import base64
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

HERE = pathlib.Path(__file__).resolve().parent
ACCOUNT = "000000000000"
REGION = "us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/slsml-local"
# What Lambda itself gives a process, and so where `env` will look for python3.
LAMBDA_PATH = "/usr/local/bin:/usr/bin:/bin:/opt/bin"
INVALID = "InvalidParameterValueException"
# Where AWS checks the request's shape first it answers ValidationException, which is in
# its common errors and not in the service's model. Either tells a client the same thing.
INVALID_OR_VALIDATION = ("InvalidParameterValueException", "ValidationException")
UNZIPPED_LIMIT = 262_144_000
ZIPPED_LIMIT = 52_428_800
QUICK_WAIT = {"Delay": 0.1, "MaxAttempts": 600}
CANARY = "SLSML_TEST_CANARY"


# ---------------------------------------------------------------- zips


def bootstrap_source(marker="one", mode="serve"):
    source = (HERE / "lambda_bootstrap.py").read_text(encoding="utf-8")
    source = source.replace('"@MARKER@"', json.dumps(marker)).replace('"@MODE@"', json.dumps(mode))
    if shutil.which("python3", path=LAMBDA_PATH) is None:
        first, rest = source.split("\n", 1)
        assert first.startswith("#!")
        source = "#!" + os.path.realpath(sys.executable) + "\n" + rest
    return source.encode()


def zip_of(files, compression=zipfile.ZIP_DEFLATED):
    """A zip in memory: name → bytes, or name → (mode, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        for name, content in files.items():
            mode, content = content if isinstance(content, tuple) else (0o644, content)
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = (0o100000 | mode) << 16
            info.compress_type = compression
            archive.writestr(info, content)
    return buffer.getvalue()


def code_zip(marker="one", mode="serve", extra=None, compression=zipfile.ZIP_DEFLATED):
    files = {"bootstrap": (0o755, bootstrap_source(marker, mode))}
    return zip_of(files | (extra or {}), compression)


def sha256(content):
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


# ---------------------------------------------------------------- waiting


def eventually(probe, until=bool, seconds=20, every=0.1, what=None):
    """Calls `probe` until its answer satisfies `until`; fails with the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if until(answer):
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds} s: {what or 'still not there'}; last answer: {answer!r}")
        time.sleep(every)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# ---------------------------------------------------------------- the local cloud


def slsml_executable():
    path = os.environ.get("SLSML_BIN")
    if not path:
        pytest.fail("set SLSML_BIN to the slsml executable, e.g. SLSML_BIN=target/release/slsml", pytrace=False)
    found = shutil.which(path)
    if not found:
        pytest.fail(f"SLSML_BIN={path} is not an executable file", pytrace=False)
    return os.path.abspath(found)


class LocalCloud:
    """`slsml local` on one folder, driven only through its command line."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.executable = slsml_executable()

    def run(self, *arguments, timeout=60):
        environment = dict(os.environ)
        environment[CANARY] = "the host's own variable"
        for name in [name for name in environment if name.startswith("AWS_")]:
            del environment[name]
        # Files, not pipes: a detached process that kept a pipe would keep this call waiting.
        log = self.directory.parent / (self.directory.name + ".command")
        with open(f"{log}.out", "wb") as out, open(f"{log}.err", "wb") as err:
            done = subprocess.run(
                [self.executable, "local", *arguments, "--dir", str(self.directory)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, timeout=timeout, check=False,
            )
        stdout = pathlib.Path(f"{log}.out").read_text(encoding="utf-8", errors="replace")
        stderr = pathlib.Path(f"{log}.err").read_text(encoding="utf-8", errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)

    def must(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def up(self, port=0, *more, containers="process"):
        self.must("up", "--detach", "--port", str(port), "--containers", containers, *more)
        return self

    def slsml(self, *arguments, code=0):
        """Runs a command of slsml against this cloud; what it printed."""
        done = subprocess.run(
            [self.executable, "--json", *arguments, "--local", "--local-dir", str(self.directory)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )
        assert done.returncode == code, f"{done.args} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def image(self, version, name):
        """Packages one of the example's versions as an image; the artifact's folder."""
        return self.image_of(f"examples/digits/models/{version}.onnx", name, f"image-{version}")

    def image_of(self, model, name, folder, *more):
        """Packages a model of the checkout as an image; the artifact's folder."""
        out = self.directory.parent / folder
        subprocess.run(
            [self.executable, "--json", "package", str(HERE.parent.parent / model), "--name", name,
             "--target", "cloudrun", "--runtime", os.environ["SLSML_SERVER"], "--out", str(out), *more],
            check=True, stdout=subprocess.DEVNULL, timeout=120,
        )
        return out / name

    def deploy_image(self, version, name, *more):
        """Deploys one of the example's versions to Cloud Run."""
        artifact = str(self.image(version, name))
        return self.slsml("deploy", "cloudrun", "--artifact", artifact, *more)

    def down(self):
        return self.run("down")

    def status(self):
        return json.loads(self.must("status", "--json").stdout)

    def env(self):
        return json.loads(self.must("env", "--json").stdout)["env"]


def package_image(folder, *flags):
    """The folder with the image of the example's first model, around the server that is tested."""
    model = HERE.parent.parent / "examples/digits/models/v1.onnx"
    command = [slsml_executable(), "--json", "package", str(model), "--name", "digits"]
    command += ["--target", "cloudrun", "--runtime", os.environ["SLSML_SERVER"], *flags]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "dist/digits"


@contextlib.contextmanager
def podman(folder):
    """podman with a store of its own, as the beginning of a command."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    # podman takes no long path for what it keeps while it runs.
    with tempfile.TemporaryDirectory(prefix="pm-") as short:
        storage = ["podman", "--root", str(folder / "root"), "--runroot", short, "--storage-driver", "vfs"]
        # crun refuses machines that have both kinds of control groups.
        storage += ["--runtime", "runc"] if shutil.which("runc") else []
        try:
            yield storage
        finally:
            for everything in [["rm", "--all", "--force"], ["rmi", "--all", "--force"]]:
                subprocess.run(storage + everything, capture_output=True)


def shell_env(env, home):
    """The environment of a shell in which `slsml local env` was evaluated, and no other AWS settings."""
    return {
        "PATH": os.environ.get("PATH", LAMBDA_PATH),
        "HOME": str(home),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        **env,
    }


def client(env, service, **settings):
    """An ordinary boto3 client, pointed by what `slsml local env` printed."""
    session = boto3.session.Session(
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
    )
    config = Config(max_pool_connections=32, **settings)
    return session.client(service, endpoint_url=env["AWS_ENDPOINT_URL"], config=config)


ONCE = {"retries": {"total_max_attempts": 1}}


# ---------------------------------------------------------------- functions


def wait_active(lam, name):
    lam.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig=QUICK_WAIT)


def wait_updated(lam, name):
    lam.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig=QUICK_WAIT)


def create(lam, name, marker="one", mode="serve", code=None, role=ROLE, **settings):
    settings.setdefault("Timeout", 10)
    settings.setdefault("MemorySize", 256)
    answer = lam.create_function(
        FunctionName=name, Role=role, Runtime="provided.al2023", Handler="bootstrap",
        Code=code or {"ZipFile": code_zip(marker, mode)}, **settings,
    )
    wait_active(lam, name)
    return answer


def update_code(lam, name, marker, mode="serve"):
    answer = lam.update_function_code(FunctionName=name, ZipFile=code_zip(marker, mode))
    wait_updated(lam, name)
    return answer


def configure(lam, name, **settings):
    answer = lam.update_function_configuration(FunctionName=name, **settings)
    wait_updated(lam, name)
    return answer


def publish(lam, name, **guards):
    version = lam.publish_version(FunctionName=name, **guards)["Version"]
    lam.get_waiter("published_version_active").wait(FunctionName=name, Qualifier=version, WaiterConfig=QUICK_WAIT)
    return version


def create_with_versions(lam, name, markers=("one", "two"), **settings):
    """A function with one published version per marker; returns their numbers."""
    versions = []
    for marker in markers:
        if versions:
            update_code(lam, name, marker)
        else:
            create(lam, name, marker, **settings)
        versions.append(publish(lam, name))
    return versions


def weights(alias):
    return alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})


def invoke(lam, target, payload=None, **settings):
    """Invokes and returns (payload as JSON, the whole answer)."""
    answer = lam.invoke(FunctionName=target, Payload=json.dumps(payload), **settings)
    content = answer["Payload"].read()
    return (json.loads(content) if content else None), answer


def delete_quietly(lam, name):
    with contextlib.suppress(ClientError):
        lam.delete_function(FunctionName=name)


# ---------------------------------------------------------------- refusals


@contextlib.contextmanager
def refused(status, *codes, saying=()):
    """The block must be refused with this HTTP status, one of these codes, and these words."""
    with pytest.raises(ClientError) as caught:
        yield caught
    response = caught.value.response
    seen = (response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"])
    assert seen in [(status, code) for code in codes], f"{seen}: {response['Error'].get('Message')}"
    message = response["Error"].get("Message", "")
    for word in [saying] if isinstance(saying, str) else saying:
        assert word.lower() in message.lower(), f"{word!r} is not in the message {message!r}"


def everything(lam, name):
    """All that the control plane says of a function, to compare before with after."""
    def plain(answer):
        return {key: value for key, value in answer.items() if key != "ResponseMetadata"}

    state = {
        "configuration": plain(lam.get_function_configuration(FunctionName=name)),
        "versions": lam.list_versions_by_function(FunctionName=name)["Versions"],
        "aliases": lam.list_aliases(FunctionName=name)["Aliases"],
        "concurrency": plain(lam.get_function_concurrency(FunctionName=name)),
        "urls": lam.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"],
    }
    return state


@contextlib.contextmanager
def unchanged(lam, name):
    before = everything(lam, name)
    yield before
    assert everything(lam, name) == before


def exists(lam, name):
    try:
        lam.get_function(FunctionName=name)
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ResourceNotFoundException"
        return False
    return True


# ---------------------------------------------------------------- processes


def processes_with(token):
    """The ids of live processes whose environment holds this text."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if token.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def listening_addresses(pid):
    """The (hex) local addresses on which a process listens for TCP."""
    inodes = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[len("socket:["):-1])
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    found.append(fields[1].split(":")[0])
    return found
