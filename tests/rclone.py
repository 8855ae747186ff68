"""A real S3 server that others wrote: rclone serves a folder as buckets."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.services import free_port

KEY_ID, SECRET = "testkey", "testsecret-0123456789"
BUCKET = "results"
PATIENCE_S = 15.0


@dataclass(slots=True)
class Rclone:
    """The server; ``folder`` holds a folder a bucket. It can be stopped and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = Path(sys.executable).with_name("rclone")
        (self.folder / BUCKET).mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                *(str(program), "serve", "s3", "--addr", f"127.0.0.1:{self.port}"),
                *("--auth-key", f"{KEY_ID},{SECRET}", "--config", "/dev/null"),
                *("--vfs-cache-mode", "off", str(self.folder)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("rclone does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def serve_s3(folder: Path) -> Iterator[Rclone]:
    """The server, until the block ends."""
    server = Rclone(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
