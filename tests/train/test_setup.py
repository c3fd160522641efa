"""What a run says of its data before it starts."""

import json

from rich.console import Console
from training import make_config, one_device_setup

from mede2_jax.train.setup import manifest, show_setup


def test_what_is_left_out_is_shown_and_listed_with_its_reason(sample, tiny_model, tmp_path):
    records = [json.loads(line) for line in (sample / "preferences.jsonl").read_text().splitlines()[:2]]
    records[1]["rejected"] = records[1]["chosen"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    setup = one_device_setup(make_config(path, sample), tiny_model)
    assert manifest(setup)["data"]["train"]["skipped"] == {"chosen equals rejected": [records[1]["id"]]}
    console = Console(width=1000)
    with console.capture() as shown:
        show_setup(setup, console)
    assert "skipped 1 example: chosen equals rejected" in shown.get()
    assert f"train: 1 example of {path} (mede2) in 1 row of " in shown.get()
