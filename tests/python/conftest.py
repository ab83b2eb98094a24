"""Fixtures: one local cloud for the session, and ordinary boto3 clients for it."""
import uuid

import pytest

import helpers


@pytest.fixture(scope="session")
def cloud(tmp_path_factory):
    cloud = helpers.LocalCloud(tmp_path_factory.mktemp("cloud") / "state")
    try:
        yield cloud.up()
    finally:
        cloud.down()


@pytest.fixture
def own_cloud(tmp_path):
    """A local cloud that the test may stop, kill and start again; not yet running."""
    cloud = helpers.LocalCloud(tmp_path / "state")
    try:
        yield cloud
    finally:
        cloud.down()


@pytest.fixture(scope="session")
def env(cloud):
    return cloud.env()


@pytest.fixture(scope="session")
def lam(env):
    return helpers.client(env, "lambda")


@pytest.fixture(scope="session")
def strict(env):
    """Lambda without retries: the first refusal is the answer."""
    return helpers.client(env, "lambda", **helpers.ONCE)


@pytest.fixture(scope="session")
def raw(env):
    """As `strict`, and without boto3's own checks, so that the server must do its own."""
    return helpers.client(env, "lambda", parameter_validation=False, **helpers.ONCE)


@pytest.fixture(scope="session")
def s3(env):
    return helpers.client(env, "s3")


@pytest.fixture(scope="session")
def sts(env):
    return helpers.client(env, "sts")


@pytest.fixture(scope="session")
def iam(env):
    return helpers.client(env, "iam")


@pytest.fixture(scope="session")
def logs(env):
    return helpers.client(env, "logs")


@pytest.fixture(scope="session")
def cloudwatch(env):
    return helpers.client(env, "cloudwatch")


@pytest.fixture
def role():
    """Exists in the local cloud from the start."""
    return helpers.ROLE


@pytest.fixture
def unique():
    """A name nobody else uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def name(unique, lam):
    """A function name nobody else uses; the function is deleted afterwards."""
    yield unique
    helpers.delete_quietly(lam, unique)


@pytest.fixture
def bucket(s3):
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=bucket)
    yield bucket
    for item in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=item["Key"])
    s3.delete_bucket(Bucket=bucket)
