"""The control plane, as boto3 and the AWS CLI see it."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from helpers import (
    ACCOUNT, INVALID_OR_VALIDATION, REGION, UNZIPPED_LIMIT, ZIPPED_LIMIT, code_zip, configure, create,
    create_with_versions, eventually, exists, invoke, publish, refused, sha256, shell_env, update_code, wait_active,
    wait_updated, weights, zip_of,
)


def arn(name, qualifier=None):
    base = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
    return f"{base}:{qualifier}" if qualifier else base


def versions_of(lam, name):
    return [item["Version"] for item in lam.list_versions_by_function(FunctionName=name)["Versions"]]


# ---------------------------------------------------------------- functions


def test_a_created_function_is_described_as_it_was_asked_for(lam, name, role):
    code = code_zip("one")
    created = lam.create_function(
        FunctionName=name, Role=role, Runtime="provided.al2023", Handler="bootstrap", Code={"ZipFile": code},
        Timeout=7, MemorySize=512, Description="what it is for", Architectures=["x86_64"],
        Environment={"Variables": {"COLOUR": "green"}},
    )
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    wait_active(lam, name)
    answer = lam.get_function(FunctionName=name)
    got = answer["Configuration"]
    expected = {
        "FunctionName": name, "FunctionArn": arn(name), "Role": role, "Runtime": "provided.al2023",
        "Handler": "bootstrap", "CodeSize": len(code), "CodeSha256": sha256(code), "Timeout": 7, "MemorySize": 512,
        "Description": "what it is for", "Architectures": ["x86_64"], "Version": "$LATEST", "PackageType": "Zip",
        "Environment": {"Variables": {"COLOUR": "green"}}, "State": "Active", "LastUpdateStatus": "Successful",
    }
    assert {key: got.get(key) for key in expected} == expected
    assert got["RevisionId"] and got["LastModified"]
    assert answer["Code"]["RepositoryType"] == "S3"


def test_defaults_are_those_of_aws(lam, name, role):
    lam.create_function(
        FunctionName=name, Role=role, Runtime="provided.al2023", Handler="bootstrap", Code={"ZipFile": code_zip()},
    )
    wait_active(lam, name)
    got = lam.get_function_configuration(FunctionName=name)
    assert (got["Timeout"], got["MemorySize"], got["Description"]) == (3, 128, "")
    assert got["Architectures"] == ["x86_64"]


def test_a_function_is_found_by_name_by_arn_and_with_a_qualifier(lam, name):
    create_with_versions(lam, name, ["one"])
    assert lam.get_function(FunctionName=arn(name))["Configuration"]["FunctionArn"] == arn(name)
    partial = f"{ACCOUNT}:function:{name}"
    assert lam.get_function(FunctionName=partial)["Configuration"]["FunctionArn"] == arn(name)
    for request in ({"FunctionName": name, "Qualifier": "1"}, {"FunctionName": f"{name}:1"},
                    {"FunctionName": arn(name, "1")}):
        assert lam.get_function(**request)["Configuration"]["FunctionArn"] == arn(name, "1")


def test_functions_are_listed_page_by_page(lam, unique):
    names = {f"{unique}-{index}" for index in range(3)}
    try:
        for each in names:
            create(lam, each)
        pages = list(lam.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}))
        assert all(len(page["Functions"]) <= 2 for page in pages)
        found = [item["FunctionName"] for page in pages for item in page["Functions"]]
        assert names <= set(found)
        assert len(found) == len(set(found))
    finally:
        for each in names:
            if exists(lam, each):
                lam.delete_function(FunctionName=each)


def test_a_deleted_function_is_gone_with_its_versions_and_aliases(lam, name):
    create_with_versions(lam, name, ["one"])
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    answer = lam.delete_function(FunctionName=name)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] in (200, 204)
    assert not exists(lam, name)
    create(lam, name, "again")
    assert versions_of(lam, name) == ["$LATEST"]
    assert lam.list_aliases(FunctionName=name)["Aliases"] == []


def test_a_new_function_is_pending_and_then_active(lam, name, role):
    created = lam.create_function(
        FunctionName=name, Role=role, Runtime="provided.al2023", Handler="bootstrap", Code={"ZipFile": code_zip()},
    )
    assert created["State"] == "Pending"
    assert created["StateReasonCode"] == "Creating"
    seen = [lam.get_function(FunctionName=name)["Configuration"]["State"]]

    def state():
        seen.append(lam.get_function(FunctionName=name)["Configuration"]["State"])
        return seen[-1]

    eventually(state, lambda state: state == "Active", every=0.02)
    assert seen[0] == "Pending", "a look right after the call finds the function still being created"
    assert seen == sorted(seen, key=["Pending", "Active"].index)
    settled = lam.get_function_configuration(FunctionName=name)
    assert settled["LastUpdateStatus"] == "Successful"
    assert "StateReasonCode" not in settled


@pytest.mark.parametrize("what", ["code", "configuration"])
def test_an_update_is_in_progress_and_then_successful(lam, name, what):
    create(lam, name)
    if what == "code":
        updated = lam.update_function_code(FunctionName=name, ZipFile=code_zip("two"))
    else:
        updated = lam.update_function_configuration(FunctionName=name, MemorySize=1024)
    assert (updated["State"], updated["LastUpdateStatus"]) == ("Active", "InProgress")
    seen = [lam.get_function(FunctionName=name)["Configuration"]["LastUpdateStatus"]]

    def status():
        seen.append(lam.get_function(FunctionName=name)["Configuration"]["LastUpdateStatus"])
        return seen[-1]

    eventually(status, lambda status: status == "Successful", every=0.02)
    assert seen[0] == "InProgress", "a look right after the call finds the update still running"
    assert seen == sorted(seen, key=["InProgress", "Successful"].index)


def test_updated_code_is_what_runs_next(lam, name):
    create(lam, name, "one")
    before = lam.get_function_configuration(FunctionName=name)
    assert invoke(lam, name)[0]["marker"] == "one"
    update_code(lam, name, "two")
    after = lam.get_function_configuration(FunctionName=name)
    assert after["CodeSha256"] == sha256(code_zip("two")) != before["CodeSha256"]
    assert after["RevisionId"] != before["RevisionId"]
    assert invoke(lam, name)[0]["marker"] == "two"


def test_updated_configuration_keeps_what_it_does_not_name(lam, name):
    create(lam, name, Description="first", Environment={"Variables": {"AA": "1"}}, Timeout=9)
    before = lam.get_function_configuration(FunctionName=name)
    configure(lam, name, MemorySize=1024, Environment={"Variables": {"BB": "2"}})
    after = lam.get_function_configuration(FunctionName=name)
    assert (after["MemorySize"], after["Timeout"], after["Description"]) == (1024, 9, "first")
    assert after["Environment"] == {"Variables": {"BB": "2"}}
    assert after["CodeSha256"] == before["CodeSha256"]
    assert after["RevisionId"] != before["RevisionId"]
    environment = invoke(lam, name, {"do": "env"})[0]["env"]
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "1024"
    assert environment["BB"] == "2" and "AA" not in environment


def test_the_current_revision_id_is_accepted_as_a_guard(lam, name):
    create(lam, name)
    guard = lam.get_function_configuration(FunctionName=name)["RevisionId"]
    lam.update_function_code(FunctionName=name, ZipFile=code_zip("two"), RevisionId=guard)
    wait_updated(lam, name)
    guard = lam.get_function_configuration(FunctionName=name)["RevisionId"]
    lam.update_function_configuration(FunctionName=name, Timeout=5, RevisionId=guard)
    wait_updated(lam, name)
    now = lam.get_function_configuration(FunctionName=name)
    assert now["Timeout"] == 5
    assert publish(lam, name, RevisionId=now["RevisionId"], CodeSha256=now["CodeSha256"]) == "1"


# ---------------------------------------------------------------- versions


def test_versions_are_published_listed_and_deleted(lam, name):
    assert create_with_versions(lam, name, ["one", "two"]) == ["1", "2"]
    assert versions_of(lam, name) == ["$LATEST", "1", "2"]
    first = lam.get_function_configuration(FunctionName=name, Qualifier="1")
    assert first["FunctionArn"] == arn(name, "1")
    assert (first["Version"], first["State"]) == ("1", "Active")
    lam.delete_function(FunctionName=name, Qualifier="2")
    assert versions_of(lam, name) == ["$LATEST", "1"]
    update_code(lam, name, "three")
    assert publish(lam, name) == "3", "a version's number is not used again"


def test_a_published_version_keeps_its_code_and_configuration(lam, name):
    create(lam, name, "one", Timeout=5)
    publish(lam, name)
    update_code(lam, name, "two")
    configure(lam, name, Timeout=6)
    frozen = lam.get_function_configuration(FunctionName=name, Qualifier="1")
    assert (frozen["CodeSha256"], frozen["Timeout"]) == (sha256(code_zip("one")), 5)
    assert invoke(lam, name, Qualifier="1")[0]["marker"] == "one"
    assert invoke(lam, name)[0]["marker"] == "two"


def test_publishing_unchanged_code_returns_the_same_version(lam, name):
    create(lam, name, "one")
    first = lam.publish_version(FunctionName=name)
    second = lam.publish_version(FunctionName=name, Description="another description changes nothing")
    assert first["Version"] == second["Version"] == "1"
    assert second["RevisionId"] == first["RevisionId"]
    assert versions_of(lam, name) == ["$LATEST", "1"]


def test_a_changed_configuration_alone_makes_a_new_version(lam, name):
    create(lam, name, "one")
    assert publish(lam, name) == "1"
    configure(lam, name, Environment={"Variables": {"AA": "1"}})
    assert publish(lam, name) == "2"


def test_create_and_update_can_publish_in_the_same_call(lam, name):
    created = create(lam, name, "one", Publish=True)
    assert created["Version"] == "1"
    updated = lam.update_function_code(FunctionName=name, ZipFile=code_zip("two"), Publish=True)
    assert updated["Version"] == "2"
    wait_updated(lam, name)
    assert versions_of(lam, name) == ["$LATEST", "1", "2"]
    assert invoke(lam, name, Qualifier="2")[0]["marker"] == "two"


# ---------------------------------------------------------------- aliases


def test_aliases_are_created_read_listed_updated_and_deleted(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    created = lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1", Description="what users see")
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert created["AliasArn"] == arn(name, "live")
    assert "RoutingConfig" not in created
    lam.create_alias(FunctionName=name, Name="next", FunctionVersion="2")
    got = lam.get_alias(FunctionName=name, Name="live")
    assert (got["Name"], got["FunctionVersion"], got["Description"]) == ("live", "1", "what users see")
    assert got["RevisionId"] == created["RevisionId"]
    listed = lam.list_aliases(FunctionName=name)["Aliases"]
    assert {item["Name"] for item in listed} == {"live", "next"}
    only = lam.list_aliases(FunctionName=name, FunctionVersion="2")["Aliases"]
    assert [item["Name"] for item in only] == ["next"]
    lam.update_alias(FunctionName=name, Name="live", FunctionVersion="2")
    got = lam.get_alias(FunctionName=name, Name="live")
    assert (got["FunctionVersion"], got["Description"]) == ("2", "what users see")
    answer = lam.delete_alias(FunctionName=name, Name="next")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert [item["Name"] for item in lam.list_aliases(FunctionName=name)["Aliases"]] == ["live"]
    with refused(404, "ResourceNotFoundException"):
        lam.get_alias(FunctionName=name, Name="next")


def test_an_alias_may_name_latest_when_it_has_no_weights(lam, name):
    create(lam, name, "one")
    lam.create_alias(FunctionName=name, Name="edge", FunctionVersion="$LATEST")
    assert invoke(lam, name, Qualifier="edge")[0]["marker"] == "one"


def test_an_update_that_omits_the_routing_keeps_it_and_an_empty_map_clears_it(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(
        FunctionName=name, Name="live", FunctionVersion="1",
        RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}},
    )
    assert weights(lam.get_alias(FunctionName=name, Name="live")) == {"2": 0.25}
    answer = lam.update_alias(FunctionName=name, Name="live", Description="only words")
    assert weights(answer) == {"2": 0.25}
    assert weights(lam.get_alias(FunctionName=name, Name="live")) == {"2": 0.25}
    answer = lam.update_alias(
        FunctionName=name, Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}},
    )
    assert weights(answer) == {}
    now = lam.get_alias(FunctionName=name, Name="live")
    assert (now["FunctionVersion"], weights(now)) == ("2", {})


def test_every_update_of_an_alias_changes_its_revision_id(lam, name):
    create_with_versions(lam, name, ["one", "two"])
    seen = [lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")["RevisionId"]]
    for change in ({"FunctionVersion": "2"}, {"Description": "words"}, {"Description": "words"},
                   {"RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}):
        answer = lam.update_alias(FunctionName=name, Name="live", RevisionId=seen[-1], **change)
        assert answer["RevisionId"] == lam.get_alias(FunctionName=name, Name="live")["RevisionId"]
        seen.append(answer["RevisionId"])
    assert len(set(seen)) == len(seen)


def test_deleting_an_alias_that_is_not_there_is_no_error(lam, name):
    create(lam, name)
    assert lam.delete_alias(FunctionName=name, Name="never")["ResponseMetadata"]["HTTPStatusCode"] == 204


# ---------------------------------------------------------------- concurrency


def test_reserved_concurrency_is_put_read_and_deleted(lam, name):
    create(lam, name)
    free = lam.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    assert "ReservedConcurrentExecutions" not in lam.get_function_concurrency(FunctionName=name)
    answer = lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=7)
    assert answer["ReservedConcurrentExecutions"] == 7
    assert lam.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 7
    assert lam.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    assert lam.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == free - 7
    answer = lam.delete_function_concurrency(FunctionName=name)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert "ReservedConcurrentExecutions" not in lam.get_function_concurrency(FunctionName=name)
    assert lam.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == free


def test_reserved_concurrency_goes_up_to_what_leaves_the_unreserved_minimum(lam, name):
    create(lam, name)
    most = lam.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] - 100
    lam.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=most)
    assert lam.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == most
    lam.delete_function_concurrency(FunctionName=name)


# ---------------------------------------------------------------- layers


def test_layers_are_published_read_listed_and_deleted(lam, unique):
    content = zip_of({"data/words.txt": b"first"})
    first = lam.publish_layer_version(
        LayerName=unique, Description="words", Content={"ZipFile": content},
        CompatibleRuntimes=["provided.al2023"], CompatibleArchitectures=["x86_64"],
    )
    assert first["ResponseMetadata"]["HTTPStatusCode"] == 201
    layer = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{unique}"
    assert (first["LayerArn"], first["LayerVersionArn"], first["Version"]) == (layer, f"{layer}:1", 1)
    assert first["Content"]["CodeSha256"] == sha256(content)
    assert first["Content"]["CodeSize"] == len(content)
    second = lam.publish_layer_version(LayerName=unique, Content={"ZipFile": zip_of({"data/words.txt": b"second"})})
    assert second["Version"] == 2
    try:
        got = lam.get_layer_version(LayerName=unique, VersionNumber=1)
        assert (got["LayerVersionArn"], got["Description"]) == (f"{layer}:1", "words")
        assert got["CompatibleRuntimes"] == ["provided.al2023"]
        by_arn = lam.get_layer_version_by_arn(Arn=f"{layer}:2")
        assert (by_arn["Version"], by_arn["LayerArn"]) == (2, layer)
        listed = {item["LayerName"]: item for item in lam.list_layers()["Layers"]}
        assert listed[unique]["LayerArn"] == layer
        assert listed[unique]["LatestMatchingVersion"]["Version"] == 2
        versions = lam.list_layer_versions(LayerName=unique)["LayerVersions"]
        assert [item["Version"] for item in versions] == [2, 1], "newest first"
    finally:
        for version in (1, 2):
            answer = lam.delete_layer_version(LayerName=unique, VersionNumber=version)
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused(404, "ResourceNotFoundException"):
        lam.get_layer_version(LayerName=unique, VersionNumber=1)
    assert unique not in {item["LayerName"] for item in lam.list_layers()["Layers"]}


def test_a_function_names_its_layers(lam, name, unique):
    layer = lam.publish_layer_version(LayerName=unique, Content={"ZipFile": zip_of({"a.txt": b"a"})})
    create(lam, name, Layers=[layer["LayerVersionArn"]])
    try:
        got = lam.get_function_configuration(FunctionName=name)
        assert [item["Arn"] for item in got["Layers"]] == [layer["LayerVersionArn"]]
        assert got["Layers"][0]["CodeSize"] == layer["Content"]["CodeSize"]
        configure(lam, name, Layers=[])
        assert lam.get_function_configuration(FunctionName=name).get("Layers", []) == []
    finally:
        lam.delete_layer_version(LayerName=unique, VersionNumber=1)


# ---------------------------------------------------------------- function URLs


def test_function_urls_are_created_on_an_alias_read_listed_and_deleted(lam, name):
    create_with_versions(lam, name, ["one"])
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    created = lam.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE")
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert created["FunctionArn"] == arn(name, "live")
    assert created["AuthType"] == "NONE"
    assert created["FunctionUrl"].startswith("http") and created["FunctionUrl"].endswith("/")
    got = lam.get_function_url_config(FunctionName=name, Qualifier="live")
    assert got["FunctionUrl"] == created["FunctionUrl"]
    latest = lam.create_function_url_config(FunctionName=name, AuthType="NONE")
    assert latest["FunctionArn"] == arn(name)
    assert latest["FunctionUrl"] != created["FunctionUrl"]
    listed = lam.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"]
    assert {item["FunctionUrl"] for item in listed} == {created["FunctionUrl"], latest["FunctionUrl"]}
    answer = lam.delete_function_url_config(FunctionName=name, Qualifier="live")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with refused(404, "ResourceNotFoundException"):
        lam.get_function_url_config(FunctionName=name, Qualifier="live")


def test_a_function_url_cannot_be_put_on_a_version_number(lam, raw, name):
    create_with_versions(lam, name, ["one"])
    with refused(400, *INVALID_OR_VALIDATION):
        raw.create_function_url_config(FunctionName=name, Qualifier="1", AuthType="NONE")
    assert lam.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"] == []


def test_a_second_function_url_on_the_same_alias_is_a_conflict(lam, strict, name):
    create_with_versions(lam, name, ["one"])
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    lam.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE")
    with refused(409, "ResourceConflictException"):
        strict.create_function_url_config(FunctionName=name, Qualifier="live", AuthType="NONE")


# ---------------------------------------------------------------- account, identity, roles


def test_the_account_tells_its_limits_and_its_use(lam, name):
    before = lam.get_account_settings()
    limit = before["AccountLimit"]
    assert limit["CodeSizeUnzipped"] == UNZIPPED_LIMIT
    assert limit["CodeSizeZipped"] == ZIPPED_LIMIT
    assert limit["UnreservedConcurrentExecutions"] <= limit["ConcurrentExecutions"]
    create(lam, name)
    after = lam.get_account_settings()["AccountUsage"]
    assert after["FunctionCount"] == before["AccountUsage"]["FunctionCount"] + 1
    assert after["TotalCodeSize"] > before["AccountUsage"]["TotalCodeSize"]


def test_the_caller_is_the_local_account(sts):
    identity = sts.get_caller_identity()
    assert identity["Account"] == ACCOUNT
    assert identity["Arn"].startswith("arn:aws:") and ACCOUNT in identity["Arn"]
    assert identity["UserId"]


def test_the_ready_made_role_can_be_read(iam, role):
    assert iam.get_role(RoleName="slsml-local")["Role"]["Arn"] == role


def test_roles_are_created_used_and_deleted(iam, lam, name, unique):
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
    role = f"role-{unique}"
    created = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    assert created["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/{role}"
    assert iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"] == trust
    with refused(409, "EntityAlreadyExists"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    create(lam, name, role=created["Arn"])
    lam.delete_function(FunctionName=name)
    iam.delete_role(RoleName=role)
    with refused(404, "NoSuchEntity"):
        iam.get_role(RoleName=role)


# ---------------------------------------------------------------- S3


def test_objects_are_put_read_listed_and_deleted(s3, bucket):
    content = os.urandom(100_000)
    put = s3.put_object(Bucket=bucket, Key="models/one.zip", Body=content, Metadata={"made-by": "test"})
    got = s3.get_object(Bucket=bucket, Key="models/one.zip")
    assert got["Body"].read() == content
    assert (got["ETag"], got["Metadata"]) == (put["ETag"], {"made-by": "test"})
    assert s3.head_object(Bucket=bucket, Key="models/one.zip")["ContentLength"] == len(content)
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="models/")["Contents"]
    assert [(item["Key"], item["Size"]) for item in listed] == [("models/one.zip", len(content))]
    assert bucket in {item["Name"] for item in s3.list_buckets()["Buckets"]}
    s3.delete_object(Bucket=bucket, Key="models/one.zip")
    with refused(404, "NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="models/one.zip")


def test_a_function_is_created_and_updated_from_s3(lam, s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="one.zip", Body=code_zip("one"))
    s3.put_object(Bucket=bucket, Key="two.zip", Body=code_zip("two"))
    create(lam, name, code={"S3Bucket": bucket, "S3Key": "one.zip"})
    assert lam.get_function_configuration(FunctionName=name)["CodeSha256"] == sha256(code_zip("one"))
    assert invoke(lam, name)[0]["marker"] == "one"
    lam.update_function_code(FunctionName=name, S3Bucket=bucket, S3Key="two.zip")
    wait_updated(lam, name)
    assert invoke(lam, name)[0]["marker"] == "two"
    s3.delete_object(Bucket=bucket, Key="two.zip")
    assert invoke(lam, name)[0]["marker"] == "two", "the function keeps its own copy"


# ---------------------------------------------------------------- the AWS CLI


@pytest.fixture
def aws(env, tmp_path):
    """Runs the AWS CLI that is installed beside this Python."""
    command = pathlib.Path(sys.executable).parent / "aws"
    assert command.exists(), "the AWS CLI is not installed beside this Python; see requirements.txt"

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, str(command), *arguments], env=shell_env(env, tmp_path), cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    return run


def test_the_aws_cli_lists_functions_with_only_the_printed_exports(aws, lam, name):
    create(lam, name)
    listed = aws("lambda", "list-functions", "--output", "json")
    assert name in {item["FunctionName"] for item in listed["Functions"]}


def test_the_aws_cli_creates_and_invokes_a_function(aws, lam, name, role, tmp_path):
    (tmp_path / "code.zip").write_bytes(code_zip("by-cli"))
    aws(
        "lambda", "create-function", "--function-name", name, "--runtime", "provided.al2023", "--handler", "bootstrap",
        "--role", role, "--zip-file", "fileb://code.zip", "--output", "json",
    )
    wait_active(lam, name)
    told = aws(
        "lambda", "invoke", "--function-name", name, "--payload", '{"a": 1}', "--output", "json", "answer.json",
    )
    assert (told["StatusCode"], told["ExecutedVersion"]) == (200, "$LATEST")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer == {"marker": "by-cli", "version": "$LATEST", "event": {"a": 1}}


def test_the_aws_cli_copies_to_s3_and_back(aws, bucket, tmp_path):
    (tmp_path / "up.bin").write_bytes(os.urandom(50_000))
    aws("s3", "cp", "up.bin", f"s3://{bucket}/x.bin", "--only-show-errors")
    aws("s3", "cp", f"s3://{bucket}/x.bin", "down.bin", "--only-show-errors")
    assert (tmp_path / "down.bin").read_bytes() == (tmp_path / "up.bin").read_bytes()
