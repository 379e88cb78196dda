"""What Tidemill's seed replaces: a user service as teams write it with FastAPI.

With BROKERS set, a user is published, and acknowledged by all replicas, before
it is answered.
"""

import json
import os
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

BROKERS = os.environ.get("BROKERS")


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.producer = None
    if BROKERS:
        app.state.producer = AIOKafkaProducer(
            bootstrap_servers=BROKERS, acks="all", enable_idempotence=True
        )
        await app.state.producer.start()
    yield
    if app.state.producer:
        await app.state.producer.stop()


app = FastAPI(lifespan=lifespan)


@app.get("/hello", response_class=PlainTextResponse)
async def hello():
    return "hello"


@app.post("/users")
async def create_user(user: dict[str, Any], request: Request):
    user.setdefault("id", str(uuid4()))
    if producer := request.app.state.producer:
        key, value = str(user["id"]).encode(), json.dumps(user).encode()
        await producer.send_and_wait("user_topic", key=key, value=value)
    return {"message": "User created and sent to Kafka", "id": user["id"]}
