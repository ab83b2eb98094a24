"""What AWS refuses is refused here, with AWS's status and code, and changes nothing.

Where a request's shape is wrong, real Lambda answers ValidationException (one of AWS's
common errors) before the service's own InvalidParameterValueException; both are taken.
"""
import json
import os
import uuid
import zipfile

import pytest
from botocore.exceptions import ClientError

from helpers import (
    ACCOUNT, INVALID, INVALID_OR_VALIDATION, REGION, ROLE, UNZIPPED_LIMIT, ZIPPED_LIMIT, code_zip, create,
    create_with_versions, delete_quietly, everything, exists, invoke, publish, refused, sha256, unchanged,
    update_code, wait_updated, zip_of,
)

STALE = "00000000-0000-0000-0000-000000000000"
NOT_FOUND = (404, "ResourceNotFoundException")
CONFLICT = (409, "ResourceConflictException")


@pytest.fixture(scope="module")
def settled(lam):
    """A function with versions 1, 2, 3 and the alias `live` on 1. No test may change it."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    assert create_with_versions(lam, name, ["one", "two", "three"]) == ["1", "2", "3"]
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    yield name
    delete_quietly(lam, name)


@pytest.fixture
def kept(lam, settled):
    """The settled function; fails the test afterwards if anything about it changed."""
    with unchanged(lam, settled):
        yield settled


def new_function(raw, name, **settings):
    request = {
        "FunctionName": name, "Role": ROLE, "Runtime": "provided.al2023", "Handler": "bootstrap",
        "Code": {"ZipFile": code_zip()},
    }
    return raw.create_function(**(request | settings))


# ---------------------------------------------------------------- RevisionId


@pytest.mark.parametrize(
    "call",
    [
        lambda lam, name: lam.update_alias(FunctionName=name, Name="live", FunctionVersion="2", RevisionId=STALE),
        lambda lam, name: lam.update_function_code(FunctionName=name, ZipFile=code_zip("new"), RevisionId=STALE),
        lambda lam, name: lam.update_function_configuration(FunctionName=name, Timeout=77, RevisionId=STALE),
        lambda lam, name: lam.publish_version(FunctionName=name, RevisionId=STALE),
    ],
    ids=["update_alias", "update_function_code", "update_function_configuration", "publish_version"],
)
def test_a_stale_revision_id_is_a_failed_precondition(strict, kept, call):
    with refused(412, "PreconditionFailedException", saying="Revision Id"):
        call(strict, kept)


def test_the_revision_id_before_a_change_is_stale_after_it(lam, strict, name):
    create_with_versions(lam, name, ["one", "two"])
    old = lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")["RevisionId"]
    lam.update_alias(FunctionName=name, Name="live", FunctionVersion="2", RevisionId=old)
    with unchanged(lam, name), refused(412, "PreconditionFailedException"):
        strict.update_alias(FunctionName=name, Name="live", FunctionVersion="1", RevisionId=old)
    old = lam.get_function_configuration(FunctionName=name)["RevisionId"]
    update_code(lam, name, "three")
    with unchanged(lam, name), refused(412, "PreconditionFailedException"):
        strict.publish_version(FunctionName=name, RevisionId=old)


# ---------------------------------------------------------------- aliases

ROUTING = [
    pytest.param("1", {"2": 1.5}, 400, INVALID_OR_VALIDATION, id="a weight above 1"),
    pytest.param("1", {"2": -0.1}, 400, INVALID_OR_VALIDATION, id="a weight below 0"),
    pytest.param("1", {"2": 0.1, "3": 0.1}, 400, (INVALID,), id="two additional versions"),
    pytest.param("1", {"1": 0.5}, 400, (INVALID,), id="the additional version is the primary"),
    pytest.param("1", {"99": 0.5}, 404, ("ResourceNotFoundException",), id="an unknown additional version"),
    pytest.param("1", {"$LATEST": 0.5}, 400, INVALID_OR_VALIDATION, id="$LATEST as the additional version"),
    pytest.param("$LATEST", {"1": 0.5}, 400, INVALID_OR_VALIDATION, id="$LATEST as the primary with weights"),
    pytest.param("99", None, 404, ("ResourceNotFoundException",), id="an unknown version"),
    pytest.param("99", {"2": 0.5}, 404, ("ResourceNotFoundException",), id="an unknown version with weights"),
]


def routing(version, weights):
    request = {"FunctionVersion": version}
    return request if weights is None else request | {"RoutingConfig": {"AdditionalVersionWeights": weights}}


@pytest.mark.parametrize("version, weights, status, codes", ROUTING)
def test_an_alias_is_not_created_with(raw, kept, version, weights, status, codes):
    with refused(status, *codes):
        raw.create_alias(FunctionName=kept, Name="other", **routing(version, weights))


@pytest.mark.parametrize("version, weights, status, codes", ROUTING)
def test_an_alias_is_not_updated_to(raw, kept, version, weights, status, codes):
    with refused(status, *codes):
        raw.update_alias(FunctionName=kept, Name="live", **routing(version, weights))


def test_promoting_a_version_that_the_kept_weights_still_name_is_refused(lam, strict, name):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(FunctionName=name, Name="live", **routing("1", {"2": 0.5}))
    with unchanged(lam, name), refused(400, INVALID):
        strict.update_alias(FunctionName=name, Name="live", FunctionVersion="2")


@pytest.mark.parametrize("alias", ["2024", "with space", "dots.are.not", "x" * 129, "$LATEST"])
def test_an_alias_name_must_be_a_name(raw, kept, alias):
    with refused(400, *INVALID_OR_VALIDATION):
        raw.create_alias(FunctionName=kept, Name=alias, FunctionVersion="1")


def test_an_alias_that_exists_is_a_conflict(strict, kept):
    with refused(*CONFLICT, saying="live"):
        strict.create_alias(FunctionName=kept, Name="live", FunctionVersion="2")


def test_an_alias_that_does_not_exist_is_not_found(strict, kept):
    with refused(*NOT_FOUND):
        strict.get_alias(FunctionName=kept, Name="nobody")
    with refused(*NOT_FOUND):
        strict.update_alias(FunctionName=kept, Name="nobody", FunctionVersion="1")
    with refused(*NOT_FOUND):
        strict.invoke(FunctionName=kept, Qualifier="nobody", Payload=b"{}")


# ---------------------------------------------------------------- functions and versions


def test_a_function_that_exists_is_a_conflict(raw, kept):
    with refused(*CONFLICT, saying=kept):
        new_function(raw, kept)


def test_a_version_that_an_alias_names_is_not_deleted(strict, kept):
    with refused(*CONFLICT, saying="live"):
        strict.delete_function(FunctionName=kept, Qualifier="1")


def test_a_version_that_only_an_aliass_weights_name_is_not_deleted(lam, strict, name):
    create_with_versions(lam, name, ["one", "two"])
    lam.create_alias(FunctionName=name, Name="live", **routing("1", {"2": 0.5}))
    with unchanged(lam, name), refused(*CONFLICT):
        strict.delete_function(FunctionName=name, Qualifier="2")


@pytest.mark.parametrize("qualifier", ["$LATEST", "live"])
def test_only_a_version_is_deleted_by_qualifier(lam, strict, name, qualifier):
    create_with_versions(lam, name, ["one"])
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    with unchanged(lam, name), refused(400, INVALID):
        strict.delete_function(FunctionName=name, Qualifier=qualifier)


def test_nothing_is_published_or_updated_while_an_update_runs(lam, strict, name):
    create(lam, name, "one")
    updated = lam.update_function_code(FunctionName=name, ZipFile=code_zip("two"))
    assert updated["LastUpdateStatus"] == "InProgress"
    with refused(*CONFLICT, saying="in progress"):
        strict.publish_version(FunctionName=name)
    with refused(*CONFLICT, saying="in progress"):
        strict.update_function_code(FunctionName=name, ZipFile=code_zip("three"))
    with refused(*CONFLICT, saying="in progress"):
        strict.update_function_configuration(FunctionName=name, Timeout=77)
    wait_updated(lam, name)
    after = lam.get_function_configuration(FunctionName=name)
    assert (after["CodeSha256"], after["Timeout"]) == (sha256(code_zip("two")), 10)
    assert publish(lam, name) == "1", "the refused publish made no version"


def test_nothing_is_published_or_updated_while_the_function_is_being_created(lam, raw, name):
    assert new_function(raw, name)["State"] == "Pending"
    with refused(*CONFLICT):
        raw.publish_version(FunctionName=name)
    with refused(*CONFLICT):
        raw.update_function_code(FunctionName=name, ZipFile=code_zip("two"))


def test_the_wrong_code_sha256_is_refused_at_publish(strict, kept):
    with refused(400, INVALID, saying="CodeSHA256"):
        strict.publish_version(FunctionName=kept, CodeSha256=sha256(b"something else"))


def test_a_dry_run_of_a_code_update_changes_nothing(lam, kept):
    before = lam.get_function_configuration(FunctionName=kept)
    answer = lam.update_function_code(FunctionName=kept, ZipFile=code_zip("never"), DryRun=True)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    after = lam.get_function_configuration(FunctionName=kept)
    for key in ("CodeSha256", "RevisionId", "LastModified", "LastUpdateStatus"):
        assert after[key] == before[key]
    assert invoke(lam, kept)[0]["marker"] == "three"


def test_a_dry_run_still_refuses_what_an_update_would(strict, kept):
    with refused(400, INVALID):
        strict.update_function_code(FunctionName=kept, ZipFile=b"not a zip", DryRun=True)
    with refused(412, "PreconditionFailedException"):
        strict.update_function_code(FunctionName=kept, ZipFile=code_zip(), DryRun=True, RevisionId=STALE)


# ---------------------------------------------------------------- code

BAD_CODE = [
    pytest.param(b"this is not a zip", "unzip", id="not a zip"),
    pytest.param(b"", (), id="nothing"),
    pytest.param(code_zip()[:-40], "unzip", id="a truncated zip"),
    pytest.param(zip_of({"main.py": b"print()"}), "bootstrap", id="a zip without bootstrap"),
    pytest.param(zip_of({"inner/bootstrap": (0o755, b"#!/bin/sh\n")}), "bootstrap", id="bootstrap in a folder only"),
    pytest.param(zip_of({"bootstrap": (0o755, b"#!/bin/sh\n"), "../outside": b"x"}), (), id="a path that leads out"),
]


@pytest.mark.parametrize("content, word", BAD_CODE)
def test_a_function_is_not_created_from(lam, raw, name, content, word):
    with refused(400, *INVALID_OR_VALIDATION, saying=word):
        new_function(raw, name, Code={"ZipFile": content})
    assert not exists(lam, name)


@pytest.mark.parametrize("content, word", BAD_CODE)
def test_code_is_not_updated_to(raw, kept, content, word):
    with refused(400, *INVALID_OR_VALIDATION, saying=word):
        raw.update_function_code(FunctionName=kept, ZipFile=content)


def too_large(caught):
    """A direct upload that is too large has two documented answers."""
    response = caught.value.response
    seen = (response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"])
    return seen in [(413, "RequestEntityTooLargeException"), (400, INVALID)], seen


def test_a_direct_zip_over_50_mb_is_refused(lam, raw, name):
    content = code_zip(extra={"weights.bin": os.urandom(ZIPPED_LIMIT)}, compression=zipfile.ZIP_STORED)
    assert len(content) > ZIPPED_LIMIT
    with pytest.raises(ClientError) as caught:
        new_function(raw, name, Code={"ZipFile": content})
    accepted, seen = too_large(caught)
    assert accepted, seen
    assert not exists(lam, name)


@pytest.fixture(scope="module")
def huge_zip():
    return code_zip(extra={"zeros.bin": bytes(UNZIPPED_LIMIT)})


def test_code_over_the_unzipped_limit_is_refused(lam, raw, name, huge_zip):
    with refused(400, INVALID, saying=str(UNZIPPED_LIMIT)):
        new_function(raw, name, Code={"ZipFile": huge_zip})
    assert not exists(lam, name)


def test_code_over_the_unzipped_limit_is_refused_at_an_update_too(raw, kept, huge_zip):
    with refused(400, INVALID, saying=str(UNZIPPED_LIMIT)):
        raw.update_function_code(FunctionName=kept, ZipFile=huge_zip)


def test_code_and_layers_together_over_the_unzipped_limit_are_refused(lam, raw, name, unique):
    half = bytes(UNZIPPED_LIMIT // 2)
    layer = lam.publish_layer_version(LayerName=unique, Content={"ZipFile": zip_of({"half.bin": half})})
    try:
        with refused(400, INVALID, saying=str(UNZIPPED_LIMIT)):
            new_function(
                raw, name, Code={"ZipFile": code_zip(extra={"half.bin": half})}, Layers=[layer["LayerVersionArn"]],
            )
        assert not exists(lam, name)
    finally:
        lam.delete_layer_version(LayerName=unique, VersionNumber=1)


def test_a_missing_s3_object_is_refused_by_name(lam, raw, s3, name, bucket):
    with refused(400, INVALID, saying="NoSuchKey"):
        new_function(raw, name, Code={"S3Bucket": bucket, "S3Key": "no/such.zip"})
    with refused(400, INVALID, saying="NoSuchBucket"):
        new_function(raw, name, Code={"S3Bucket": f"{bucket}-none", "S3Key": "no/such.zip"})
    assert not exists(lam, name)


def test_a_missing_s3_object_is_refused_at_an_update_too(raw, kept, bucket):
    with refused(400, INVALID, saying="NoSuchKey"):
        raw.update_function_code(FunctionName=kept, S3Bucket=bucket, S3Key="no/such.zip")


def test_an_s3_object_that_is_not_a_zip_is_refused(lam, raw, s3, name, bucket):
    s3.put_object(Bucket=bucket, Key="words.txt", Body=b"only words")
    with refused(400, INVALID, saying="unzip"):
        new_function(raw, name, Code={"S3Bucket": bucket, "S3Key": "words.txt"})
    assert not exists(lam, name)


# ---------------------------------------------------------------- unknown functions

CALLS = {
    "get_function": {},
    "get_function_configuration": {},
    "delete_function": {},
    "update_function_code": {"ZipFile": code_zip()},
    "update_function_configuration": {"Timeout": 5},
    "publish_version": {},
    "list_versions_by_function": {},
    "create_alias": {"Name": "live", "FunctionVersion": "1"},
    "get_alias": {"Name": "live"},
    "list_aliases": {},
    "update_alias": {"Name": "live", "FunctionVersion": "1"},
    "delete_alias": {"Name": "live"},
    "put_function_concurrency": {"ReservedConcurrentExecutions": 1},
    "get_function_concurrency": {},
    "delete_function_concurrency": {},
    "create_function_url_config": {"AuthType": "NONE"},
    "get_function_url_config": {},
    "list_function_url_configs": {},
    "update_function_url_config": {"AuthType": "NONE"},
    "delete_function_url_config": {},
    "invoke": {"Payload": b"{}"},
}


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_function_is_not_found_by(strict, unique, call):
    with refused(*NOT_FOUND):
        getattr(strict, call)(FunctionName=unique, **CALLS[call])


@pytest.mark.parametrize("invocation", ["RequestResponse", "Event", "DryRun"])
def test_an_unknown_function_or_version_is_not_found_by_any_kind_of_invoke(strict, kept, unique, invocation):
    with refused(*NOT_FOUND):
        strict.invoke(FunctionName=unique, InvocationType=invocation, Payload=b"{}")
    with refused(*NOT_FOUND):
        strict.invoke(FunctionName=kept, Qualifier="99", InvocationType=invocation, Payload=b"{}")


def test_an_unknown_version_is_not_found(strict, kept):
    with refused(*NOT_FOUND):
        strict.get_function(FunctionName=kept, Qualifier="99")
    with refused(*NOT_FOUND):
        strict.get_function_configuration(FunctionName=kept, Qualifier="nobody")


# ---------------------------------------------------------------- settings

BAD_SETTINGS = [
    pytest.param({"MemorySize": 127}, INVALID_OR_VALIDATION, (), id="memory of 127"),
    pytest.param({"MemorySize": 10_241}, INVALID_OR_VALIDATION, (), id="memory of 10241"),
    pytest.param({"Timeout": 0}, INVALID_OR_VALIDATION, (), id="timeout of 0"),
    pytest.param({"Timeout": 901}, INVALID_OR_VALIDATION, (), id="timeout of 901"),
    pytest.param({"Environment": {"Variables": {"LARGE": "x" * 4096}}}, (INVALID,), "4KB", id="4 KB of environment"),
    pytest.param({"Environment": {"Variables": {"AWS_REGION": "moon"}}}, (INVALID,), "AWS_REGION",
                 id="a reserved variable"),
    pytest.param({"Environment": {"Variables": {"1BAD": "x"}}}, INVALID_OR_VALIDATION, (), id="a bad variable name"),
    pytest.param({"Handler": "with space"}, INVALID_OR_VALIDATION, (), id="a handler with a space"),
    pytest.param({"Handler": "h" * 129}, INVALID_OR_VALIDATION, (), id="a handler of 129 characters"),
    pytest.param({"Runtime": "python3.12"}, (INVALID,), "provided", id="a runtime that is not provided"),
    pytest.param({"Runtime": "no-such-runtime"}, INVALID_OR_VALIDATION, (), id="an unknown runtime"),
    pytest.param({"Description": "d" * 257}, INVALID_OR_VALIDATION, (), id="a description of 257 characters"),
    pytest.param({"Role": "somebody"}, INVALID_OR_VALIDATION, (), id="a role that is no ARN"),
    pytest.param({"Role": f"arn:aws:iam::{ACCOUNT}:role/nobody"}, (INVALID,), "cannot be assumed",
                 id="an unknown role"),
    pytest.param({"Layers": [f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:nothing:1"]}, (INVALID,), "does not exist",
                 id="an unknown layer"),
]


@pytest.mark.parametrize("settings, codes, word", BAD_SETTINGS)
def test_a_function_is_not_created_with(lam, raw, name, settings, codes, word):
    with refused(400, *codes, saying=word):
        new_function(raw, name, **settings)
    assert not exists(lam, name)


@pytest.mark.parametrize("settings, codes, word", BAD_SETTINGS)
def test_a_configuration_is_not_updated_to(raw, kept, settings, codes, word):
    with refused(400, *codes, saying=word):
        raw.update_function_configuration(FunctionName=kept, **settings)


@pytest.mark.parametrize("bad", ["", "with space", "dots.are.not", "x" * 65, "päckchen"])
def test_a_function_name_must_be_a_name(raw, bad):
    with refused(400, *INVALID_OR_VALIDATION):
        new_function(raw, bad)


def test_more_than_five_layers_are_refused(lam, raw, name, unique):
    layers = [
        lam.publish_layer_version(LayerName=f"{unique}-{index}", Content={"ZipFile": zip_of({"a": b"a"})})
        for index in range(6)
    ]
    arns = [layer["LayerVersionArn"] for layer in layers]
    try:
        with refused(400, INVALID, saying="5 layers"):
            new_function(raw, name, Layers=arns)
        assert not exists(lam, name)
        create(lam, name, Layers=arns[:5])
        with unchanged(lam, name), refused(400, INVALID, saying="5 layers"):
            raw.update_function_configuration(FunctionName=name, Layers=arns)
    finally:
        for index in range(6):
            lam.delete_layer_version(LayerName=f"{unique}-{index}", VersionNumber=1)


def test_two_versions_of_one_layer_are_refused(lam, raw, name, unique):
    arns = [
        lam.publish_layer_version(LayerName=unique, Content={"ZipFile": zip_of({"a": text})})["LayerVersionArn"]
        for text in (b"1", b"2")
    ]
    try:
        with refused(400, INVALID):
            new_function(raw, name, Layers=arns)
        assert not exists(lam, name)
    finally:
        for version in (1, 2):
            lam.delete_layer_version(LayerName=unique, VersionNumber=version)


def test_a_layer_that_is_not_a_zip_is_refused(strict, unique):
    with refused(400, INVALID):
        strict.publish_layer_version(LayerName=unique, Content={"ZipFile": b"only words"})
    assert unique not in {layer["LayerName"] for layer in strict.list_layers()["Layers"]}


def test_an_unknown_layer_is_not_found(strict, unique):
    with refused(*NOT_FOUND):
        strict.get_layer_version(LayerName=unique, VersionNumber=1)
    with refused(*NOT_FOUND):
        strict.get_layer_version_by_arn(Arn=f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{unique}:1")


# ---------------------------------------------------------------- concurrency and URLs


@pytest.mark.parametrize("beyond", ["all of the account", "one more than leaves the minimum", "a negative number"])
def test_reserved_concurrency_that_is_not_there_is_refused(lam, raw, kept, beyond):
    limit = lam.get_account_settings()["AccountLimit"]
    amount = {
        "all of the account": limit["ConcurrentExecutions"],
        "one more than leaves the minimum": limit["UnreservedConcurrentExecutions"] - 99,
        "a negative number": -1,
    }[beyond]
    codes = INVALID_OR_VALIDATION if amount < 0 else (INVALID,)
    with refused(400, *codes, saying=() if amount < 0 else "UnreservedConcurrentExecution"):
        raw.put_function_concurrency(FunctionName=kept, ReservedConcurrentExecutions=amount)


def test_a_function_url_on_an_unknown_alias_is_not_found(strict, kept):
    with refused(*NOT_FOUND):
        strict.create_function_url_config(FunctionName=kept, Qualifier="nobody", AuthType="NONE")


def test_a_function_url_needs_a_known_kind_of_authorisation(raw, kept):
    with refused(400, *INVALID_OR_VALIDATION):
        raw.create_function_url_config(FunctionName=kept, Qualifier="live", AuthType="MAYBE")


# ---------------------------------------------------------------- invoke


def test_a_payload_over_6_mb_is_refused(strict, kept):
    payload = json.dumps("x" * (6 * 1024 * 1024)).encode()
    with refused(413, "RequestTooLargeException", "RequestEntityTooLargeException"):
        strict.invoke(FunctionName=kept, Payload=payload)


def test_a_payload_just_below_6_mb_is_taken(lam, kept):
    payload = {"do": "log", "line": "short", "padding": "x" * (6 * 1024 * 1024 - 100)}
    answer, _ = invoke(lam, kept, payload)
    assert answer == {"logged": "short"}


def test_an_event_over_1_mb_is_refused(strict, kept):
    payload = json.dumps("x" * (1024 * 1024 + 1)).encode()
    with refused(413, "RequestTooLargeException", "RequestEntityTooLargeException"):
        strict.invoke(FunctionName=kept, InvocationType="Event", Payload=payload)


def test_a_payload_that_is_not_json_is_refused(strict, kept):
    with refused(400, "InvalidRequestContentException"):
        strict.invoke(FunctionName=kept, Payload=b"{not json")


def test_an_unknown_kind_of_invocation_is_refused(raw, kept):
    with refused(400, *INVALID_OR_VALIDATION):
        raw.invoke(FunctionName=kept, InvocationType="Perhaps", Payload=b"{}")


def test_the_function_still_serves_after_all_refusals(lam, kept):
    assert everything(lam, kept)["configuration"]["State"] == "Active"
    assert [invoke(lam, kept, Qualifier=version)[0]["marker"] for version in ("1", "2", "3")] == ["one", "two", "three"]
