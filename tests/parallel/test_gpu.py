"""What JAX and XLA are told of GPUs before they look for them."""

import os

import pytest

from mede2_jax.parallel.gpu import FLAGS, PLUGINS, prepare_gpu, with_flags


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")


@pytest.mark.parametrize(("given", "taken"), [(None, "0.92"), ("0.5", "0.5")])
def test_training_takes_a_gpu_unless_told_otherwise(given, taken, monkeypatch):
    if given is not None:
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", given)
    prepare_gpu()
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == taken


@pytest.mark.parametrize("plugin", PLUGINS)
def test_flags_are_for_those_who_can_read_them(plugin, monkeypatch, tmp_path):
    prepare_gpu()
    assert os.environ["XLA_FLAGS"] == "", "no plugin for GPUs is installed here"
    (tmp_path / f"{plugin}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    prepare_gpu()
    assert dict(flag.split("=") for flag in os.environ["XLA_FLAGS"].split()) == FLAGS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "--a=1 --b=2"),
        ("--c=3", "--c=3 --a=1 --b=2"),
        ("--a=7", "--a=7 --b=2"),
        (" --b --a=0 ", "--b --a=0"),
        ("--aa=7", "--aa=7 --a=1 --b=2"),
    ],
)
def test_a_flag_that_the_user_set_stays(given, expected):
    assert with_flags(given, {"--a": "1", "--b": "2"}) == expected
