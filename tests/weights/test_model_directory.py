"""Model directories: complete or absent, loaded with any sharding and dtype, and refused when they do not fit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mede2_jax.config import UserError
from mede2_jax.weights import staging
from mede2_jax.weights.model_directory import COPIED, check_companions, load_params, write_model_directory
from mede2_jax.weights.model_info import read_info
from mede2_jax.weights.params import digest_params
from mede2_jax.weights.staging import staged_directory

SHARDED = jax.sharding.PartitionSpec(None, "x")


def params():
    key = jax.random.key(0)
    return {"layers": {"kernel": jax.random.normal(key, (3, 8, 6))}, "norm": {"scale": jax.random.normal(key, (6,))}}


def abstract(dtype=jnp.float32, sharding=None, **shapes):
    return {
        "layers": {"kernel": jax.ShapeDtypeStruct(shapes.get("kernel", (3, 8, 6)), dtype, sharding=sharding)},
        "norm": {"scale": jax.ShapeDtypeStruct((6,), dtype)},
    }


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "source"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json"):
        (directory / name).write_text('{"a":  1}\r\n')
    for name in ("modeling_evil.py", "pytorch_model.bin", "model.safetensors", ".env"):
        (directory / name).write_text("no")
    return directory


@pytest.fixture
def model(tmp_path, source):
    write_model_directory(tmp_path / "model", family="f", source=source, params=params(), parents=["sha256:p"])
    return tmp_path / "model"


def hidden(directory):
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_written_and_loaded(model, source):
    info = read_info(model)
    assert (info.family, info.parents, info.dtype, info.format_version) == ("f", ("sha256:p",), "float32", 1)
    assert info.digest == digest_params(model / "params")
    assert {path.name for path in model.iterdir()} == {"params", "model.json"} | {p.name for p in source.iterdir() if p.name in COPIED}
    assert (model / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert not hidden(model.parent)
    jax.tree.map(np.testing.assert_array_equal, load_params(model, abstract()), params())


def test_loads_sharded_and_casts(model):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, SHARDED)
    found = load_params(model, abstract(jnp.bfloat16, sharding))
    assert found["layers"]["kernel"].sharding == sharding
    expected = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_saves_sharded_arrays_with_the_same_digest(model, source):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",))
    values = params()
    values["layers"]["kernel"] = jax.device_put(values["layers"]["kernel"], jax.sharding.NamedSharding(mesh, SHARDED))
    info = write_model_directory(model.parent / "sharded", family="f", source=source, params=values)
    assert info.digest == read_info(model).digest


@pytest.mark.parametrize(
    "damage", ["shape", "missing", "extra", "truncated", "no metadata", "no data", "no params", "model.json", "not text", "version"]
)
def test_what_does_not_fit_is_one_line(model, damage):
    wanted = abstract(kernel=(3, 8, 7)) if damage == "shape" else abstract()
    if damage == "missing":
        wanted["more"] = wanted["norm"]
    elif damage == "extra":
        del wanted["norm"]
    elif damage == "truncated":
        largest = max(model.glob("params/**/d/*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:100])
    elif damage == "no metadata":
        (model / "params" / "_METADATA").unlink()
    elif damage == "no data":
        (model / "params" / "manifest.ocdbt").unlink()
    elif damage == "no params":
        shutil.rmtree(model / "params")
    elif damage == "model.json":
        (model / "model.json").unlink()
    elif damage == "not text":
        (model / "model.json").write_bytes(b"\xff\xfe")
    elif damage == "version":
        (model / "model.json").write_text(json.dumps(json.loads((model / "model.json").read_text()) | {"format_version": 2}))
    with pytest.raises(UserError) as error:
        load_params(model, wanted)
    assert "\n" not in str(error.value)
    named = {"shape": "[3, 8, 6]", "missing": "1 parameter, first more/scale", "extra": "norm/scale", "version": "format_version"}
    assert named.get(damage, str(model)) in str(error.value)


def test_target_is_replaced_only_when_asked_and_only_a_model(model, source, tmp_path):
    values = {"x": jnp.ones(3)}
    with pytest.raises(UserError, match="exists"):
        write_model_directory(model, family="f", source=source, params=values)
    assert write_model_directory(model, family="g", source=source, params=values, overwrite=True).family == "g"
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="is not a model"):
        write_model_directory(precious, family="f", source=source, params=values, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "years" and not hidden(tmp_path)


def test_what_training_needs_beside_the_weights(source):
    (source / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    check_companions(source)
    (source / "chat_template.jinja").unlink()
    (source / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer \(tokenizer\.json\), no chat template \([^)]*\); copy"):
        check_companions(source)
    (source / "preprocessor_config.json").rename(source / "processor_config.json")
    (source / "vocab.json").write_text("{}")
    (source / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    check_companions(source)
    (source / "processor_config.json").unlink()
    with pytest.raises(UserError, match=r"has no image processor \(preprocessor_config\.json\); copy"):
        check_companions(source)


def test_an_interrupt_while_replacing_leaves_one_or_the_other(tmp_path, monkeypatch):
    target = tmp_path / "old"
    target.mkdir()
    (target / "model.json").write_text("{}")
    rename = type(target).rename

    def interrupted(path, to):
        if path == staging.partial_path(target):
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(type(target), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), staged_directory(target, overwrite=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and [path.name for path in target.iterdir()] == ["model.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), UserError("x")])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "old"
    target.mkdir()
    (target / "model.json").write_text("{}")
    for to, overwrite in [(tmp_path / "new", False), (target, True)]:
        with pytest.raises(type(error)), staged_directory(to, overwrite=overwrite) as partial:
            (partial / "file").write_text("half")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and [path.name for path in target.iterdir()] == ["model.json"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    stale = staging.partial_path(tmp_path / "model")
    stale.mkdir()
    (stale / "half").write_text("x")
    with staged_directory(tmp_path / "model") as partial:
        (partial / "whole").write_text("y")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"] and not hidden(tmp_path)


def test_two_writers_of_one_target(tmp_path):
    with staged_directory(tmp_path / "model"), pytest.raises(UserError, match="another process"), staged_directory(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_too_little_space_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"needs 1000000000\.0 GB"), staged_directory(tmp_path / "model", needed_bytes=10**18):
        pass
    assert not list(tmp_path.iterdir())
