"""LoRA as surgery: applied it changes nothing, merged it equals the adapter, and only what should train is selected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from mede2_jax.config import UserError
from mede2_jax.families import model_config
from mede2_jax.models.lora import (
    LoRAConfig,
    base_path,
    join_params,
    merge_lora,
    put_adapters,
    split_params,
    take_adapters,
    with_dropout_keys,
)
from mede2_jax.train.model_spec import make_model_spec

ALL_LORA = {"vision": "lora", "projector": "lora", "language": "lora"}


def policy_with(tiny_model, parts=ALL_LORA, **lora):
    family, sizes = model_config(tiny_model)
    return make_model_spec(
        family, sizes, parts=parts, lora=LoRAConfig(**lora), compute_dtype=jnp.float32, param_dtype=jnp.float32, remat="none"
    )


def random_params(policy, seed=0, zero_b=False):
    rng = np.random.default_rng(seed)
    flat = {path: jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype) for path, leaf in policy.abstract.items()}
    if zero_b:
        flat |= {path: leaf * 0 for path, leaf in flat.items() if path.endswith("lora_b")}
    return unflatten_dict(flat, sep="/")


def batch_of(policy):
    tokens = np.arange(3, 15)[None]
    index = np.arange(12)[None]
    patches = 16
    return {
        "tokens": tokens,
        "positions": np.broadcast_to(index[:, None], (1, 3, 12)),
        "key_start": index * 0,
        "key_end": index + 1,
        "image_index": np.where(index < 4, index, -1),
        "patches": np.random.default_rng(0).normal(size=(1, patches, 1176)).astype(np.float32),
        "patch_positions": np.zeros((1, patches, 2), np.int32),
        **{f"patch_{k}_start": np.zeros((1, patches), np.int32) for k in ("window", "image")},
        **{f"patch_{k}_end": np.full((1, patches), patches, np.int32) for k in ("window", "image")},
    }


def hidden(policy, params, key=None):
    return np.asarray(policy.model(params, key).hidden_states(jax.tree.map(jnp.asarray, batch_of(policy))))


@pytest.mark.slow
def test_lora_at_zero_is_the_base_model(tiny_model):
    policy = policy_with(tiny_model)
    adapted = random_params(policy, zero_b=True)
    plain = policy_with(tiny_model, {part: "frozen" for part in ALL_LORA})
    base, _ = merge_lora(adapted, 1.0)
    assert flatten_dict(base, sep="/").keys() == plain.abstract.keys()
    assert np.array_equal(hidden(policy, adapted), hidden(plain, base))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{"rank": 4}, {"rank": 3, "alpha": 7.0, "rslora": True}], ids=["plain", "rank-stabilised"])
def test_merged_equals_adapter_on(tiny_model, lora):
    policy = policy_with(tiny_model, **lora)
    params = random_params(policy)
    plain = policy_with(tiny_model, {part: "frozen" for part in ALL_LORA})
    merged = hidden(plain, merge_lora(params, policy.lora.scale)[0])
    on = hidden(policy, params)
    assert np.abs(on - merged).max() <= 1e-4
    assert np.abs(on - hidden(plain, merge_lora(params, 0.0)[0])).max() > 0.01, "the adapter must matter"


def test_rank_stabilised_scale():
    assert LoRAConfig(rank=16, alpha=8).scale == 0.5
    assert LoRAConfig(rank=16, alpha=8, rslora=True).scale == 2.0


def test_split_and_join(tiny_model):
    policy = policy_with(tiny_model, {"vision": "frozen", "projector": "full", "language": "lora"})
    params = random_params(policy)
    trainable, frozen = split_params(params, policy.parts)
    trained = set(flatten_dict(trainable, sep="/"))
    assert all(path.startswith("projector/") or path.endswith(("lora_a", "lora_b")) for path in trained)
    assert not any(path.startswith("vision/") for path in trained)
    assert trained.isdisjoint(flatten_dict(frozen, sep="/"))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, params, join_params(trainable, frozen)))


def test_targets_choose_layers(tiny_model):
    policy = policy_with(tiny_model, {"vision": "frozen", "projector": "frozen", "language": "lora"}, targets=("q_proj", "v_proj"))
    adapted = {path.removesuffix("/lora_a") for path in policy.abstract if path.endswith("lora_a")}
    assert adapted == {"language/layers/attention/q_proj", "language/layers/attention/v_proj"}
    with pytest.raises(UserError, match=r"\['q_porj'\].*choose from.*q_proj"):
        policy_with(tiny_model, targets=("q_porj",))


def test_all_linear_leaves_vocabulary_and_patch_embedding_alone(tiny_model):
    adapted = [path for path in policy_with(tiny_model).abstract if path.endswith("lora_a")]
    assert len(adapted) == 7 + 5 + 2  # language layers, vision blocks, projector
    assert not any(name in path for path in adapted for name in ("head", "embed"))


@pytest.mark.slow
def test_dropout_is_random_by_layer_and_key_and_absent_without_a_key(tiny_model):
    policy = policy_with(tiny_model, rank=4, dropout=0.5)
    params = random_params(policy)
    with_key = hidden(policy, params, jax.random.key(0))
    assert np.array_equal(with_key, hidden(policy, params, jax.random.key(0)))
    assert not np.allclose(with_key, hidden(policy, params, jax.random.key(1)))
    assert not np.allclose(with_key, hidden(policy, params))
    assert np.array_equal(hidden(policy, params), hidden(policy_with(tiny_model, rank=4), params))
    keys = flatten_dict(with_dropout_keys(params, jax.random.key(0)), sep="/")["language/layers/mlp/up_proj/dropout_key"]
    assert len(np.unique(np.asarray(keys), axis=0)) == len(keys)


@pytest.mark.slow
def test_dropout_keeps_the_expected_update(tiny_model):
    """Inverted dropout: the mean over many keys nears the update without dropout."""
    policy = policy_with(tiny_model, {"vision": "frozen", "projector": "frozen", "language": "lora"}, dropout=0.3, targets=("q_proj",))
    graph, params = nnx.split(nnx.merge(policy.train_graph, with_dropout_keys(random_params(policy), jax.random.key(0))).language.layers)
    x = jnp.ones((1, 1, 128))

    def update(key):
        layer = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], params))
        layer.attention.q_proj.dropout_key[...] = jax.random.key_data(key)
        return layer.attention.q_proj(x) - layer.attention.q_proj.base(x)

    mean = jnp.mean(jax.vmap(update)(jax.random.split(jax.random.key(1), 4000)), axis=0)
    layer = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], params))
    q = layer.attention.q_proj
    exact = q.scale * (x @ q.lora_a[...]) @ q.lora_b[...]
    assert float(jnp.abs(mean - exact).max()) < 0.15 * float(jnp.abs(exact).max())


def test_adapters_out_and_in(tiny_model):
    policy = policy_with(tiny_model)
    params, other = random_params(policy, 1), random_params(policy, 2)
    moved = put_adapters(other, jax.tree.map(np.asarray, take_adapters(params)))
    assert jax.tree.all(jax.tree.map(np.array_equal, take_adapters(moved), take_adapters(params)))
    adapters = dict(take_adapters(params))
    path, (a, b) = next(iter(adapters.items()))
    with pytest.raises(UserError, match=r"set lora\.rank"):
        put_adapters(other, {**adapters, path: (a[..., :2], b[..., :2, :])})
    adapters.pop(path)
    with pytest.raises(UserError, match="layers differ"):
        put_adapters(other, adapters)


def test_base_path():
    assert base_path("language/layers/attention/q_proj/base/kernel") == "language/layers/attention/q_proj/kernel"
    assert base_path("language/norm/scale") == "language/norm/scale"
