"""Compiled programs outlive a session, and a torso does not."""

import os
import subprocess
import sys
from pathlib import Path

import compiled_cache

TESTS = Path(__file__).parent
SESSION = """
import os, sys
sys.path.insert(0, sys.argv[1])
import compiled_cache
compiled_cache.begin()
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
if "torso" in sys.argv:
    open(f"{folder}/killed-while-writing-cache", "wb").write(b"half")
print(sum("cache_hits" in event for event in events), sum("cache_misses" in event for event in events), folder)
"""


def session(tmp_path, *arguments):
    inherited = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    environment = inherited | {"MEDE2_TEST_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", SESSION, str(TESTS), *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    hits, misses, folder = ran.stdout.split()
    assert not Path(folder).exists()
    return int(hits), int(misses)


def test_a_second_session_compiles_nothing_and_a_torso_is_left_behind(tmp_path):
    hits, misses = session(tmp_path, "torso")
    assert hits == 0 and misses > 0
    (lasting,) = (folder for folder in tmp_path.iterdir())
    names = {program.name for program in lasting.iterdir()}
    assert names and "killed-while-writing-cache" not in names
    assert session(tmp_path) == (misses, 0)
    assert {program.name for program in lasting.iterdir()} == names


def test_programs_that_were_not_used_for_longest_go_first(tmp_path):
    for age, name in enumerate(("new", "used", "old")):
        (tmp_path / f"{name}-cache").write_bytes(b"x" * 100)
        os.utime(tmp_path / f"{name}-cache", (1000 - age, 1000 - age))
    compiled_cache.prune(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new-cache", "used-cache"]


def test_another_processor_or_no_store_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDE2_TEST_CACHE", str(tmp_path))
    here = compiled_cache.store()
    monkeypatch.setattr(compiled_cache, "_processor", lambda: "another")
    assert here.parent == compiled_cache.store().parent == tmp_path and here != compiled_cache.store()
    monkeypatch.setenv("MEDE2_TEST_CACHE", "")
    assert compiled_cache.store() is None
