from __future__ import annotations

from pathlib import Path

from tests.agent_client.builders import finish, start

FORKING = """
from agent_client.files import exclusive_lock
with exclusive_lock(home / "lock") as is_held:
    child = os.fork()
    if not child:
        signal.pause()
with exclusive_lock(home / "lock") as is_held_again:
    print(is_held, is_held_again)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_child_that_was_forked_under_a_lock_does_not_keep_it(tmp_path: Path) -> None:
    assert finish(start(tmp_path, FORKING)) == b"True True\n"
