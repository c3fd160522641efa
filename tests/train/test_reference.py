"""The file of reference log-probabilities: filled by pair and role, taken up where it was left, and only by the run it belongs to."""

import numpy as np
import pytest

from mede2_jax.config import UserError
from mede2_jax.train.reference import References, fill_reference, load_reference, reference_digest, save_reference

MODEL = reference_digest("model", "data")


def batches():
    """Two batches of three pairs, one slot of padding: which pair, which role, the sum of log-probabilities."""
    yield np.array([[2, 2, 0, 0]]), np.array([[0, 1, 0, 1]]), np.array([[-1.0, -2.0, -3.0, -4.0]], np.float32)
    yield np.array([[1, 1, -1, -1]]), np.array([[1, 0, -1, -1]]), np.array([[-5.0, -6.0, np.nan, np.nan]], np.float32)


def filled():
    references = References.empty({"train": 3})
    assert list(fill_reference(references, "train", batches(), lambda batch: batch)) == [1, 2]
    return references


def test_sums_go_to_their_pair_and_role():
    assert filled().tables["train"].tolist() == [[-3.0, -4.0], [-6.0, -5.0], [-1.0, -2.0]]


def test_a_file_is_taken_up_where_it_was_left(tmp_path):
    path, references = tmp_path / "reference.safetensors", filled()
    save_reference(path, references, MODEL)
    found = load_reference(path, MODEL)
    assert found.done == {"train": 2} and np.array_equal(found.tables["train"], references.tables["train"])


def test_another_models_file_is_refused(tmp_path):
    path = tmp_path / "reference.safetensors"
    save_reference(path, filled(), MODEL)
    with pytest.raises(UserError, match="of another model or other data") as raised:
        load_reference(path, reference_digest("another model", "data"))
    assert "delete the file" in str(raised.value) and path.exists()


def test_a_broken_model_is_told_of():
    broken = [(pair, role, np.where(pair == 0, np.inf, sums)) for pair, role, sums in batches()]
    with pytest.raises(UserError, match="not finite"):
        list(fill_reference(References.empty({"train": 3}), "train", broken, lambda batch: batch))
