"""What the OpenAPI document promises, asked of the server many times over by schemathesis.

All of schemathesis' checks run, on all routes but these: the stream of events, which does not
end, and the trainings, which take too long to be asked hundreds of times. One check is left out
on two routes: a rule and a quiet window have to make sense as a whole, which no schema says, so
that what it allows may be refused. All these have tests of their own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ODD
from .test_api_server import ask, environment

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef"
APART = ["/events", "/ml/anomalies/train/{device}", "/ml/forecasts/train/{device}"]
EXAMPLES = 15
CONFIG = """
{parameters}
[[operations]]
include-path = ["/rules", "/quiet"]
include-method = "POST"
checks.positive_data_acceptance.enabled = false
"""
DEVICE = """
[parameters]
"path.device" = "{device}"
"query.device" = "{device}"
"""


@pytest.fixture(scope="module")
def openapi(api):
    """The document."""
    return ask(api, "/docs/json")[1]


@pytest.mark.long  # a search at random; it takes minutes
@pytest.mark.parametrize("parameters", ["", DEVICE], ids=["any device", "one that is there"])
def test_the_server_does_what_its_document_says(odd, serve, openapi, tmp_path, parameters):
    assert set(APART) < set(openapi["paths"])
    (device,) = odd.execute("SELECT ml_uuid(%s)", [ODD]).fetchone()
    config = CONFIG.format(parameters=parameters.format(device=device))
    (tmp_path / "schemathesis.toml").write_text(config)
    with serve(**environment(odd), TOKENS=f"train {TOKEN}") as address:
        ran = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{address}/docs/json"),
                *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
                *("--header", f"Authorization: Bearer {TOKEN}", "--request-timeout", "60"),
                *("--continue-on-failure", "--no-color", "--seed", "1"),
                *(word for path in APART for word in ("--exclude-path", path)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Tested: {count(openapi) - len(APART)}" in ran.stdout


def count(openapi):
    return sum(len(methods) for methods in openapi["paths"].values())


def test_every_route_is_of_a_group_and_every_parameter_says_what_it_is(openapi):
    groups = {tag["name"] for tag in openapi["tags"]}
    assert all(tag["description"] for tag in openapi["tags"])
    for path, methods in openapi["paths"].items():
        for method, of in methods.items():
            call = f"{method} {path}"
            assert of["summary"], call
            assert set(of["tags"]) <= groups, call
            given = of.get("parameters", [])
            body = of.get("requestBody", {"content": {}})["content"]
            for content in body.values():
                given += [{"schema": one} for one in content["schema"]["properties"].values()]
                assert content["schema"]["additionalProperties"] is False, call
            for one in given:
                schema = one["schema"]
                assert one.get("description") or schema.get("description"), (call, one)
                more = {"enum", "example", "examples", "default", "pattern", "maximum", "items"}
                assert more & {*schema, *one}, (call, one)


def test_a_server_without_tokens_does_not_say_that_it_wants_one(openapi):
    assert openapi["security"] == []
    assert json.dumps(openapi).count('"scheme": "bearer"') == 1
