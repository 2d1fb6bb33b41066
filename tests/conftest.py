"""Shared fixtures: the reference data beside the project, and quiet, bounded numerical libraries."""

import logging
import os
import uuid
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """Where reference outputs and real observations are looked for."""
    return Path(os.environ.get("SKYSOM_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared():
    """Return a function that resolves a path under the shared folder, or skips with the reason."""

    def resolve(relative: str) -> Path:
        path = shared_folder() / relative
        if not path.exists():
            pytest.skip(f"{relative} is not beside the project (set SKYSOM_SHARED to its folder)")
        return path

    return resolve


class S3Server:
    """An S3 server on loopback (moto); what it holds lives as long as this process."""

    _endpoint = ""
    _kept: ClassVar[list] = []

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, after a `stop` at the same address."""
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Make a bucket and point the environment here; returns its URL."""
        from s3fs import S3FileSystem

        values = {"ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}
        values |= {"DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true", "MAX_ATTEMPTS": "1"}
        for name, value in values.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        if S3Server._endpoint != values["ENDPOINT_URL"]:  # instances remember the endpoint they were made with
            S3Server._endpoint = values["ENDPOINT_URL"]
            S3Server._kept.extend(S3FileSystem._cache.values())  # and warn when they end before their connections
            S3FileSystem.clear_instance_cache()
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        S3FileSystem(use_listings_cache=False).mkdir(name)
        return f"s3://{name}"


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server for the whole session; do not stop it."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A bucket of its own, as a URL; the environment leads to it."""
    return s3_server.bucket(monkeypatch)


@pytest.fixture
def stoppable_s3(monkeypatch):
    """A server of its own, which the test may stop and start, and a bucket in it: (server, URL)."""
    from skysom.storage import patience

    monkeypatch.setattr(patience, "_STATE", patience._State())  # an outage before this test was announced
    server = S3Server()
    yield server, server.bucket(monkeypatch)
    server.stop()
