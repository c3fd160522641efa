"""Two processes of four devices give the numbers of one process of eight; they stop together and end together."""

import json
import re
import signal

import numpy as np
import pytest
from jobs import ended, error_lines, job, wait_for

from mede2_jax.weights.model_info import PARAMS
from mede2_jax.weights.params import ParamReader

STEPS = 4
GLOO_WORDS = {"Gloo", "Rank", "is", "connected", "to", "peer", "ranks", "Expected", "number", "of"}


@pytest.fixture(scope="module")
def arguments(sample, tiny_model, tmp_path_factory):
    """Short pairs with images, so that a step takes a moment."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    records = [json.loads(line) for line in (sample / "preferences.jsonl").read_text().splitlines()[:24]]
    for number, record in enumerate(records):
        record["chosen"] = " ".join(record["chosen"].split()[: 9 + number])
        record["rejected"] = " ".join(record["rejected"].split()[: 35 - number])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return [
        f"--model={tiny_model}",
        f"--data.path={path}",
        f"--data.image_root={sample}",
        "--data.row_tokens=384",
        "--data.eval_fraction=0.1",
        "--rows_per_step=8",
        f"--max_steps={STEPS}",
        "--eval_every=2",
        "--lora.dropout=0.1",
        "--optimizer.learning_rate=0.003",
        "--compute_dtype=float32",
        "--param_dtype=float32",
        "--log_every=1",
        "--remat=none",
    ]


@pytest.fixture(scope="module")
def one_process(arguments, tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    with job([*arguments, f"--output={run}"], processes=1) as started:
        ((status, output, errors),) = ended(started)
    assert status == 0, output + errors
    return run


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def params(run):
    reader = ParamReader(run / "model" / PARAMS)
    return {path: reader.read(path) for path in reader.infos}


@pytest.mark.slow
def test_a_job_stopped_by_a_signal_to_one_goes_on_elsewhere_to_the_same_end(one_process, arguments, tmp_path):
    """Replicas over the processes first, then tensor parallelism over both, where every process has all rows."""
    run = tmp_path / "run"
    with job([*arguments, f"--output={run}", "--mesh.data=2", "--mesh.fsdp=4"]) as started:
        wait_for(started[0], "step 1/4")
        started[1].send_signal(signal.SIGTERM)
        results = ended(started)
    assert [status for status, _, _ in results] == [0, 0], results
    assert "state saved; go on with the same command and --resume" in results[0][1] and not (run / "model").exists()
    # Gloo's threads write their lines in pieces, which may mix: what counts is whose words they are.
    assert set(re.findall("[A-Za-z]+", results[1][1])) <= GLOO_WORDS, "one process speaks"
    step = metrics(run)[-1]["step"]
    assert step < STEPS and (run / "checkpoints" / str(step)).is_dir()
    with job([*arguments, f"--output={run}", "--resume", "--mesh.fsdp=1", "--mesh.tensor=8"]) as started:
        results = ended(started)
    assert [status for status, _, _ in results] == [0, 0], results
    assert f"resumed from the checkpoint of step {step}" in results[0][1]
    assert "data over 1 process, fsdp over 1 process, tensor over 2 processes" in results[0][1]
    ours, theirs = metrics(run), metrics(one_process)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in mine.keys() - {"time", "tokens_per_second", "compilations"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-5, abs=1e-5), (mine["step"], name)
    expected = params(one_process)
    for path, value in params(run).items():
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=1e-5, err_msg=path)
    assert (run / "adapter" / "adapter_model.safetensors").exists() and (run / "curves.png").exists()
    assert "process: 1" not in (run / "config.yaml").read_text(), "which process wrote it is no part of a run's config"


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "when"), [(1, "compiling the training step"), (0, "reference log-probabilities")])
def test_a_process_that_is_killed_ends_the_job(killed, when, arguments, tmp_path):
    with job([*arguments, f"--output={tmp_path / 'run'}"]) as started:
        wait_for(started[0], when)
        started[killed].kill()
        status, _, errors = ended(started)[1 - killed]
    assert status != 0
    assert f"process {killed} of 2 was killed or lost; start the job again with --resume" in errors
    assert len(error_lines(errors)) == 1 and "Traceback" not in errors


@pytest.mark.slow
def test_bad_data_is_one_line_of_each_process(sample, arguments, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text((sample / "preferences.jsonl").read_text().splitlines()[0] + "\n{broken\n")
    with job([*arguments, f"--data.path={path}", f"--output={tmp_path / 'run'}"]) as started:
        results = ended(started)
    for status, _, errors in results:
        (line,) = error_lines(errors)
        assert status == 2 and "bad.jsonl" in line and "of 2: " in line and "Traceback" not in errors
    assert not (tmp_path / "run").exists()
