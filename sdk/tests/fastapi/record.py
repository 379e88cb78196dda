"""Records what FastAPI answers, for tests/fastapi.rs to hold the SDK against.

    python3 -m venv /tmp/fastapi && /tmp/fastapi/bin/pip install -r requirements.txt
    /tmp/fastapi/bin/python record.py > responses.json

Messages of JSON errors are those of Python 3.11 (3.13 has other ones for a comma
too many).
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")

from fastapi import FastAPI, Query
from fastapi.testclient import TestClient

app = FastAPI()


@app.post("/users")
async def create_user(user: dict):
    return {"user": user}


@app.get("/events")
async def list_events(limit: int = Query(100, ge=1, le=1000), after: str | None = None):
    return {"limit": limit, "after": after}


NOT_OBJECTS = ["[]", '[1,{"a":1.0}]', '"text"', '"caf\u00e9 \\"q\\""', "12", "null", "true", "false", "123456789012345678901234567890"]
NOT_JSON = [
    " ", "{", "{ ", "[", '{"a"', '{"a":', '{"a": ', '{"a":1', '{"a":1,', '{"a":1, ', '{"a":1,}', "{a:1}", "{'a':1}",
    '{"a" 1}', '{"a":1 "b":2}', "[1", "[1,", "[1,]", "[1 2]", "[,]", "{,}", "nope", "tru", "nul", "-", "+1", ".5",
    '"x', '"x\\', '{"a":"x', '{"a', '{"a":"\n"}', '{"a":"\t"}', '{"a":"\\x"}', '{"a":"\\', '{"a":"\\u12"}', '{"a":"\\u12',
    '{"a":"\\uzzzz"}', '{"a":"\\ud83d\\uzzzz"}', '{"a":1} x', "{}{}", "{} {}", "1 2", '{"a":tru}', '{"a":01}', '{"a":1.}',
    '{"a":-}', '{"a":1e}', '{"a":.5}', '\n\n{\n"a": 1,\n}', '{"\u00e9":x}', '{"\U0001f600":x}', "\x0b{}", "{\x0b}",
    "\u00a0{}", '{"a":"\x7f\x00"}', "user=ada", "<user/>", '{"a":1]', "[1}", "{1:2}", '{"a":[1,{"b":}]}', "\ufeffx",
]
OBJECTS = [
    "{}", '{"a":1}', ' { "b" : [ 1 , 2.5 , true , null ] , "a" : { } } ', '{"":1}', '{"a":1,"a":2}', '{"a":1,"b":2,"a":3}',
    '{"a":"\\u00e9\\/\\u0001\\ud83d\\ude00\\b\\f\\n\\r\\t\x7f"}', '{"big":123456789012345678901234567890,"one":1.0,"minus":-0.0}',
    '{"\\u0061":"\\u2028\u2028"}', "\ufeff{}", '{"a":{"b":{"c":[[[]]]}}}',
]
NOT_TEXT = [b"\xff", b'{"a":"\xff"}', b"[" * 5000 + b"]" * 5000]
LIMITS = [
    "", "limit=abc", "limit=0", "limit=5000", "limit=1001", "limit=1000", "limit=1", "limit=", "limit", "limit=1.5", "limit=1.0",
    "limit=5.00", "limit=1.", "limit=.0", "limit=-1", "limit=-0", "limit=0.0", "limit=-5.0", "limit=+5", "limit=%2B5", "limit=%205",
    "limit=%0A5", "limit=5%C2%A0", "limit=1_000", "limit=1_", "limit=_1", "limit=1__0", "limit=007", "limit=0x10", "limit=1e2",
    "limit=%D9%A3", "limit=1%00", "limit=99999999999999999999999", "limit=-99999999999999999999999", "limit=" + "1" * 5000,
    "limit=5&limit=6", "limit=abc&limit=6", "limit=%22", "limit=caf%C3%A9", "limit=%ff",
]
OTHERS = [("GET", "/nope"), ("GET", "/users/7"), ("GET", "/users"), ("PUT", "/users"), ("DELETE", "/users"), ("PATCH", "/events")]

# Where the SDK means to differ.
DIFFERENT = [
    '{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', "NaN", '{"a":"\\ud800"}', '{"a":1e999}', "1.50", "-0", '{"a":1e5}',
]

client = TestClient(app, raise_server_exceptions=False)


def record(kind, method, target, body=b""):
    response = client.request(method, target, content=body, headers={"content-type": "application/json"} if body else {})
    row = {"kind": kind, "method": method, "target": target}
    try:
        row["body"] = body.decode()
    except UnicodeDecodeError:
        row["body_hex"] = body.hex()
    row |= {"status": response.status_code, "type": response.headers.get("content-type"), "response": response.text}
    if "allow" in response.headers:
        row["allow"] = response.headers["allow"]
    return row


rows = [record("same", "POST", "/users", body.encode()) for body in [""] + NOT_OBJECTS + NOT_JSON + OBJECTS]
rows += [record("same", "POST", "/users", body) for body in NOT_TEXT]
rows += [record("same", "GET", "/events?" + query) for query in LIMITS]
rows += [record("problem", method, target) for method, target in OTHERS]
rows += [record("different", "POST", "/users", body.encode()) for body in DIFFERENT]
json.dump({"python": sys.version.split()[0], "rows": []} | {"rows": rows}, sys.stdout, ensure_ascii=True, indent=1)
print()
