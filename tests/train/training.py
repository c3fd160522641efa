"""What the training tests share: small real data, opened as the trainer opens it, and losses with their gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from mede2_jax.data.loader import make_loader
from mede2_jax.models.logprobs import token_scores
from mede2_jax.models.lora import join_params, split_params
from mede2_jax.parallel import rules
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.inputs import open_inputs
from mede2_jax.train.model_spec import init_params


def short_pairs(sample, to, count=6):
    """Sample pairs with the first words of their responses, so that sums stay exact to float32's last digits."""
    lines = (sample / "preferences.jsonl").read_text().splitlines()[:count]
    records = [json.loads(line) for line in lines]
    for number, record in enumerate(records):
        record["chosen"] = " ".join(record["chosen"].split()[: 9 + 3 * number])
        record["rejected"] = " ".join(record["rejected"].split()[: 15 - 2 * number])
    to.write_text("".join(json.dumps(record) + "\n" for record in records))
    return to


def make_config(path, sample, **options):
    data = {"path": path, "image_root": sample, "row_tokens": 2048, **options.pop("data", {})}
    defaults = {"compute_dtype": "float32", "param_dtype": "float32", "rows_per_step": 1, "remat": "none"}
    return TrainConfig.model_validate({**defaults, **options, "data": data})


def one_device_inputs(config, model):
    return open_inputs(config, model, devices=jax.devices()[:1])


def moved_params(setup, model, seed=1):
    """The model's parameters with every trained one moved at random, so that no gradient is trivially zero."""
    params = init_params(setup.spec, model, setup.mesh, seed=0)
    trainable, frozen = split_params(params, setup.spec.parts)
    leaves, tree = jax.tree.flatten(trainable)
    rng = np.random.default_rng(seed)  # JAX would compile a program for each shape
    moved = [leaf + 0.05 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return join_params(frozen, jax.tree.unflatten(tree, moved))


def reference_table(count):
    return np.random.default_rng(0).normal(-150, 1, (count, 2)).astype(np.float32)


def whole_batch(setup, reference=None, rows=None):
    """All rows of the training data as one batch [B, …]."""
    loader = make_loader(setup.train, setup.shape, rows_per_step=rows or len(setup.train.rows), shuffle=False, reference=reference)
    with loader:
        (batch,) = list(loader)
    return {name: value[0] for name, value in batch.items()}


def loss_and_gradients(setup, params, batch):
    """The stage's loss over a batch, and its gradient by every trained parameter."""
    trainable, frozen = split_params(params, setup.spec.parts)
    batch = jax.tree.map(jnp.asarray, batch)
    totals = setup.loss.totals(batch)

    def loss(trained):
        with rules.use_mesh(setup.mesh):
            model = setup.spec.model(join_params(frozen, trained))
            scores = token_scores(model, batch, train_vocabulary=setup.spec.trains_vocabulary, chunk=64)
            return setup.loss(scores, batch, totals)

    (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
    return float(value), metrics, gradients


def laid_out(path, sample, model, stage="dpo", **options):
    """((loss, metrics, gradients) of a stage over all of its data, the inputs they are of)."""
    setup = one_device_inputs(make_config(path, sample, stage=stage, **options), model)
    reference = reference_table(len(setup.train)) if stage == "dpo" else None
    return loss_and_gradients(setup, moved_params(setup, model), whole_batch(setup, reference)), setup


def largest_gap(ours, theirs):
    gaps = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), ours, theirs)
    return max(jax.tree.leaves(gaps))
