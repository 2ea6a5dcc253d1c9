"""A function that needs Python is declared once; this writes those that it is made of.

Such a function in `sql/functions/` has ``$python$ name $python$`` for a body: the name of a field
of `pyml.server.dispatch.Functions`. Two functions come of it. One in PL/Python, with an underscore
before its name, calls the Python side, which gives an error of the user's as data. The function
itself, in PL/pgSQL, raises that, so that the user reads the error and not a Python traceback.

What takes a device by its uuid takes any id of the history besides: another function of the same
name, whose first argument is text. What a client sends without a type goes there.
"""

import re

DECLARED = re.compile(
    r"CREATE OR REPLACE FUNCTION (?P<name>\w+)\((?P<arguments>[^;]*?)\)\s+"
    r"RETURNS (?P<returns>TABLE \([^;]*?\)|\w+)\n"
    r"LANGUAGE plpython3u (?P<volatility>\w+) PARALLEL UNSAFE SECURITY INVOKER\n"
    r"AS \$python\$ (?P<python>\w+)(?: -> (?P<key>\w+))? \$python\$;\n"
    r"COMMENT ON FUNCTION (?P=name) IS (?P<comment>'(?:[^']|'')*');\n"
)
BY_UUID = re.compile(
    r"CREATE OR REPLACE (?P<what>FUNCTION|PROCEDURE) (?P<name>ml_\w+)"
    r"\(device uuid(?: DEFAULT NULL)?(?P<rest>[^;]*?)\)"
    r"(?:\s+RETURNS (?P<returns>[^$;]*?))?\nLANGUAGE plpgsql (?P<how>[^$]*?)AS \$\$\n"
    r".*?COMMENT ON (?P=what) (?P=name)\(uuid(?P<types>[^)]*)\) IS '(?P<comment>(?:[^']|'')*)';\n",
    re.DOTALL,
)
# What only a worker calls, which has the uuid.
BY_UUID_ALONE = ("ml_store_model",)
# A time crosses from Python as seconds since the epoch.
MOMENT = '"timestamp" timestamptz'


def expanded(sql: str) -> str:
    """SQL in which each declaration is two functions, each with its COMMENT."""
    return BY_UUID.sub(_by_any_id, DECLARED.sub(_written, sql))


def _arguments(text: str) -> list[str]:
    """The arguments of a function; a default may have commas in brackets."""
    return [one.strip() for one in re.split(r",(?![^(]*\))", text) if one.strip()]


def _by_any_id(declared: "re.Match[str]") -> str:
    name, what = declared["name"], declared["what"]
    if name in BY_UUID_ALONE:
        return declared[0]
    rest = _arguments(declared["rest"])
    names = "".join(f", {one.split()[0]}" for one in rest)
    arguments, types, comment = ["device text", *rest], declared["types"], declared["comment"]
    if what == "PROCEDURE":
        head = f"\nLANGUAGE plpgsql {declared['how']}"
        answer = f"CALL @extschema@.{name}(@extschema@.ml_uuid(device){names})"
    else:
        how = declared["how"].replace("PARALLEL SAFE", "PARALLEL UNSAFE")
        head = f" RETURNS {declared['returns']}\nLANGUAGE plpgsql {how}"
        rows = "QUERY SELECT * FROM " if declared["returns"].startswith("TABLE") else ""
        answer = f"RETURN {rows}{name}(ml_uuid(device){names})"
    return f"""\
{declared[0]}
CREATE OR REPLACE {what} {name}({", ".join(arguments)}){head}AS $$
BEGIN
    @PYML_AT_HOME@
    {answer};
END
$$;
COMMENT ON {what} {name}(text{types}) IS '{comment} By the id that the history has.';
"""


def _written(declared: "re.Match[str]") -> str:
    arguments = _arguments(declared["arguments"])
    plain = [re.sub(r"\s+DEFAULT\s.*", "", one, flags=re.DOTALL) for one in arguments]
    names = ", ".join(one.split()[0] for one in plain)
    types = ", ".join(one.split(None, 1)[1] for one in plain)
    name, volatility, python = declared["name"], declared["volatility"], declared["python"]
    rows = declared["returns"].startswith("TABLE")
    inner = "jsonb"
    if rows:
        columns = [one.strip() for one in declared["returns"][len("TABLE (") : -1].split(",")]
        moved = [one.replace(MOMENT, "epoch float8") for one in columns]
        inner = f"TABLE ({', '.join([*moved, 'error jsonb'])})"
        picked = ", ".join(
            "to_timestamp(found.epoch)" if one == MOMENT else f"found.{one.split()[0]}"
            for one in columns
        )
        answer = (
            f"RETURN QUERY SELECT {picked} FROM _{name}({names}) AS found\n"
            "    WHERE found.error IS NULL OR _ml_raise(found.error);"
        )
    else:
        key = f" ->> '{declared['key']}'" if declared["key"] else ""
        answer = f"RETURN _ml_answer(_{name}({names})){key};"
    path = "SET search_path = pg_catalog, @extschema@, pg_temp"
    head = f"{volatility} PARALLEL UNSAFE SECURITY INVOKER\n{path}"
    return f"""\
CREATE OR REPLACE FUNCTION _{name}({", ".join(plain)}) RETURNS {inner}
LANGUAGE plpython3u {head} SET datestyle = 'ISO'
AS $$
    @PYML_LOAD@
    return GD['pyml @PYML_VERSION@'].{python}({names})
$$;
COMMENT ON FUNCTION _{name}({types}) IS 'The Python side of {name}.';

CREATE OR REPLACE FUNCTION {name}({", ".join(arguments)}) RETURNS {declared["returns"]}
LANGUAGE plpgsql {head}
AS $$
BEGIN
    @PYML_AT_HOME@
    {answer}
END
$$;
COMMENT ON FUNCTION {name}({types}) IS {declared["comment"]};
"""
