"""The seed's four requests, as its Python clients make them.

Run with the base URL of a host that has the three seed services; leaves with
an error when an answer is not what the FastAPI services gave.
"""

import sys
import time

import requests

base = sys.argv[1]
session = requests.Session()


def eventually(what, ask):
    deadline = time.monotonic() + 30
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)
    return answer


event = {"type": "signup", "nested": {"list": [1, 2.5, None, True, "ä€😀"]}}
answer = session.post(f"{base}/events", json=event, timeout=10)
assert answer.status_code == 200, answer.text
assert answer.headers["content-type"] == "application/json"
assert answer.content == b'{"message":"Event created and sent to Kafka"}', answer.text

eventually(
    "the event is shown",
    lambda: session.get(f"{base}/events", timeout=10).json() == {"events": [event]},
)

answer = session.post(f"{base}/users", json={"name": "Ada"}, timeout=10)
assert answer.status_code == 200, answer.text
assert answer.json()["message"] == "User created and sent to Kafka", answer.text
user = answer.json()["id"]

orders = eventually(
    "the user is ordered",
    lambda: session.get(f"{base}/orders", timeout=10).json()["orders"],
)
assert orders == [{"name": "Ada"}], orders
answer = session.get(f"{base}/orders/{user}", timeout=10)
assert answer.status_code == 200 and answer.json() == {"name": "Ada"}, answer.text

answer = session.post(f"{base}/users", data="no JSON", timeout=10)
assert answer.status_code == 422, answer.text
assert answer.json()["detail"][0]["loc"][0] == "body", answer.text

print("as FastAPI gave it")
