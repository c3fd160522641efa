"""The command: Y_p × Y_n by the rule, the limits, repeats, held-out questions, what is refused; and that DPO trains on what it writes."""

import json
import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.data.records import Judgment, Rollout
from mede2_jax.judge.__main__ import main as judge
from mede2_jax.pair.__main__ import main
from mede2_jax.reasoning.rubric import ASPECTS, MMRP

FLAWS = {"illogical", "ignores_image", "hallucinates", "no_reflection"}


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def manifest(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text("utf-8"))


def assert_adds_up(written):
    """In = out + dropped by reason, for responses, questions and pairs."""
    counts, dropped = written["counts"], written["dropped"]
    responses, questions, pairs = counts["responses"], counts["questions"], counts["pairs"]
    assert responses["in"] == responses["positive"] + responses["negative"] + sum(dropped["responses"].values())
    assert questions["in"] == questions["with_pairs"] + sum(dropped["questions"].values())
    assert pairs["in"] == pairs["train"] + pairs["eval"] + sum(dropped["pairs"].values())


@pytest.fixture(scope="module")
def judged(sample, tmp_path_factory):
    """The sample's responses with judgments."""
    out = tmp_path_factory.mktemp("judged") / "judgments.jsonl"
    judge([f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline", f"--out={out}"])
    return out


@pytest.fixture
def base(sample, judged):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", f"--judgments={judged}"]


def test_all_of_positive_times_negative(base, sample, tmp_path):
    out = tmp_path / "pairs.jsonl"
    main([*base, f"--out={out}", "--max_pairs=none", "--max_similarity=1", "--max_length_ratio=none"])
    made = {rollout["id"]: rollout["metadata"]["made"] for rollout in read(sample / "rollouts.jsonl")}
    expected = set()
    for question in {id.partition("#")[0] for id in made}:
        positive = [number for number in range(8) if made[f"{question}#{number}"] == "good"]
        negative = [number for number in range(8) if {*made[f"{question}#{number}"].split()} <= FLAWS]
        expected |= {f"{question}#{chosen}-{rejected}" for chosen, rejected in product(positive, negative)}
    written = manifest(out)
    pairs = read(out)
    same = written["dropped"]["pairs"].get("a response nearly the same as another one", 0)  # word for word
    assert len({pair["id"] for pair in pairs}) == len(pairs) == 480 - same and {pair["id"] for pair in pairs} <= expected
    assert_adds_up(written)
    assert written["counts"]["responses"] == {"in": 384, "positive": 96, "negative": 240}
    assert written["dropped"]["responses"] == {"not judged": 48}


def test_a_pair_is_two_responses_to_one_question_and_says_where_from(base, sample, judged, tmp_path):
    out = tmp_path / "pairs.jsonl"
    main([*base, f"--out={out}"])
    rollouts = {rollout["id"]: rollout for rollout in read(sample / "rollouts.jsonl")}
    judgments = {raw["id"]: Judgment.model_validate(raw) for raw in read(judged)}
    for pair in read(out):
        sides = {side: rollouts[pair["metadata"][side]["rollout"]] for side in ("chosen", "rejected")}
        for side, rollout in sides.items():
            assert pair[side] == rollout["response"] and rollout["parents"] == [pair["metadata"]["question"]]
            assert pair["metadata"][side]["judgments"] == [f"{rollout['id']}@0"]
        assert [part["role"] for part in pair["prompt"]] == ["system", "user"] and pair["images"] == sides["chosen"]["images"]
        chosen, rejected = (judgments[f"{rollout['id']}@0"].verdicts for rollout in sides.values())
        assert all(chosen.values()) and pair["metadata"]["rejected_fails"] == [name for name in MMRP if not rejected[name]]
        assert {pair["metadata"]["question"], *(rollout["id"] for rollout in sides.values())} < {*pair["parents"]}
        assert "look" not in json.dumps(pair["metadata"]), "hidden facts stay where they are"


@pytest.mark.parametrize("token", ["<img>", "<|im_end|>", "</img>", "<|image_pad|>", "<|vision_start|>", "<IMG_CONTEXT>"])
def test_responses_that_spell_a_reserved_token_are_left_out_and_counted(sample, tmp_path, token):
    rollouts = read(sample / "rollouts.jsonl")[:16]
    spelt = {rollouts[0]["id"], rollouts[9]["id"]}
    for rollout in rollouts:
        if rollout["id"] in spelt:
            rollout["response"] = f"{token} {rollout['response']}"
    path, judgments, out = write(tmp_path / "rollouts.jsonl", rollouts), tmp_path / "judgments.jsonl", tmp_path / "pairs.jsonl"
    judge([f"--rollouts={path}", "--judge=offline", f"--out={judgments}", f"--image_root={sample}"])
    command = [f"--rollouts={path}", f"--judgments={judgments}", f"--out={out}", "--max_pairs=none", f"--image_root={sample}"]
    said = tmp_path / "rollouts.jsonl.manifest.json"
    for reserved, left_out in (["<|im_start|>", token], 2), (["<|im_start|>"], 0), (None, 0):
        said.write_text(json.dumps({"processor": {"digest": "a"} | ({"reserved": reserved} if reserved else {})}))
        main(command)
        assert_adds_up(written := manifest(out))
        assert written["dropped"]["responses"].get("spells a token that training takes for structure", 0) == left_out
        used = {pair["metadata"][side]["rollout"] for pair in read(out) for side in ("chosen", "rejected")}
        assert bool(used & spelt) is not bool(left_out)


def test_responses_are_used_evenly_and_the_seed_decides(base, tmp_path):
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for out, seed in zip(files, (0, 0, 1), strict=True):
        main([*base, f"--out={out}", "--max_pairs=4", f"--seed={seed}"])
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    for question, pairs in by_question(files[0]).items():
        chosen, rejected = (Counter(pair["metadata"][side]["rollout"] for pair in pairs) for side in ("chosen", "rejected"))
        assert len(pairs) == 4 and max(rejected.values()) == 1, question
        assert len(chosen) == 1 or set(chosen.values()) == {2}
    assert manifest(files[0])["dropped"]["pairs"]["beyond max_pairs"] > 0


def by_question(path):
    groups = {}
    for pair in read(path):
        groups.setdefault(pair["metadata"]["question"], []).append(pair)
    return groups


def test_another_rule_needs_no_judge(base, judged, tmp_path):
    out, before = tmp_path / "pairs.jsonl", judged.read_bytes()
    main([*base, f"--out={out}", "--max_pairs=none"])
    assert {frozenset(pair["metadata"]["rejected_fails"]) for pair in read(out)} == {
        *(frozenset([name]) for name in MMRP),
        frozenset(["no_hallucination", "reflection"]),
    }
    main([*base, f"--out={out}", "--max_pairs=none", "--criteria=no_hallucination,image_analysis"])
    pairs = read(out)
    # Good ones, illogical ones and those without reflection are all positive now; those that hallucinate or ignore the images are not.
    assert Counter(name for pair in pairs for name in pair["metadata"]["rejected_fails"]).keys() == {"no_hallucination", "image_analysis"}
    assert manifest(out)["counts"]["responses"] == {"in": 384, "positive": 192, "negative": 144}
    assert_adds_up(manifest(out))
    assert manifest(out)["config"]["criteria"] == ["no_hallucination", "image_analysis"] and judged.read_bytes() == before


def test_lengths_are_balanced(base, tmp_path):
    out = tmp_path / "pairs.jsonl"
    main([*base, f"--out={out}", "--max_pairs=none", "--max_length_ratio=1.25"])
    ratios = [max(len(pair["chosen"]), len(pair["rejected"])) / min(len(pair["chosen"]), len(pair["rejected"])) for pair in read(out)]
    assert max(ratios) <= 1.25 and manifest(out)["dropped"]["pairs"]["lengths too different"] > 0
    assert_adds_up(manifest(out))
    main([*base, f"--out={out}", "--max_pairs=1", "--choose=length"])
    closest = sum(ratio(pair) for pair in read(out))
    main([*base, f"--out={out}", "--max_pairs=1"])
    assert closest < sum(ratio(pair) for pair in read(out))
    assert manifest(out)["characters"]["chosen"]["mean"] == round(sum(len(pair["chosen"]) for pair in read(out)) / len(read(out)), 1)


def ratio(pair):
    short, long = sorted([len(pair["chosen"]), len(pair["rejected"])])
    return long / short


def test_near_duplicates_are_limited(base, sample, judged, tmp_path):
    """Copies of a good response with one word changed, and a bad one that is nearly a good one."""
    rollouts = read(sample / "rollouts.jsonl")[:8]
    rollouts[1]["response"] = rollouts[0]["response"].replace("fine curved", "thin curved")
    rollouts[5]["response"] = rollouts[0]["response"].replace("curved", "bent")
    path, out, judgments = write(tmp_path / "r.jsonl", rollouts), tmp_path / "p.jsonl", tmp_path / "j.jsonl"
    verdicts = [judgment for judgment in read(judged) if judgment["question"] == rollouts[0]["parents"][0]]
    digests = {rollout["id"]: Rollout.model_validate(rollout).content_digest for rollout in rollouts}
    write(judgments, [judgment | {"of": digests[judgment["parents"][0]]} for judgment in verdicts])
    main([f"--rollouts={path}", f"--judgments={judgments}", f"--out={out}", "--max_pairs=none", f"--image_root={sample}"])
    dropped = manifest(out)["dropped"]["pairs"]
    assert dropped == {"a response nearly the same as another one": 5, "chosen and rejected nearly the same": 1}
    assert [pair["id"][-3:] for pair in read(out)] == ["0-2", "0-3", "0-4", "0-6"]
    assert_adds_up(manifest(out))


def test_held_out_questions_are_whole_and_stay_the_same_under_another_rule(base, tmp_path):
    out, held = tmp_path / "pairs.jsonl", tmp_path / "pairs.eval.jsonl"
    main([*base, f"--out={out}", "--eval_fraction=0.25"])
    train, eval = by_question(out), by_question(held)
    assert not {*train} & {*eval} and len(train) + len(eval) == 48 and 4 <= len(eval) <= 20
    assert (manifest(out)["split"], manifest(held)["split"]) == ("train", "eval")
    assert manifest(out)["counts"]["pairs"]["eval"] == sum(map(len, eval.values()))
    assert_adds_up(manifest(out))
    main([*base, f"--out={out}", "--eval_fraction=0.25", "--max_pairs=1", "--criteria=reflection"])
    assert {*by_question(held)} == {*eval}
    main([*base, f"--out={out}"])
    assert not held.exists() and not held.with_name(held.name + ".manifest.json").exists(), "an older rule's held-out pairs"


def test_the_seed_decides_which_questions_are_held_out(base, tmp_path):
    held = []
    for number, seed in enumerate((0, 1, 0)):
        out = tmp_path / f"{number}.jsonl"
        main([*base, f"--out={out}", "--eval_fraction=0.25", f"--seed={seed}"])
        held.append({*by_question(tmp_path / f"{number}.eval.jsonl")})
    assert held[0] == held[2] != held[1] and held[1] - held[0] and held[0] - held[1]


def repeated(judged, tmp_path, votes):
    """Judgments of which each response has as many as `votes(rollout)` gives verdicts on reflection."""
    records = []
    for judgment in read(judged):
        for repeat, met in enumerate(votes(judgment["parents"][0])):
            records.append(judgment | {"id": f"{judgment['parents'][0]}@{repeat}", "repeat": repeat, "reflection": {"met": met}})
    return write(tmp_path / "repeated.jsonl", records)


def test_repeated_judgments_decide_by_majority_or_unanimously(base, judged, tmp_path):
    out = tmp_path / "pairs.jsonl"
    votes = {"0": [True, True, False], "1": [False, True, False], "5": [False, False, True]}
    judgments = repeated(judged, tmp_path, lambda rollout: votes.get(rollout[-1], [True] * 3))
    flags = [base[0], f"--judgments={judgments}", f"--out={out}", "--criteria=reflection", "--max_pairs=none", "--max_similarity=1"]
    main(flags)
    chosen = {pair["metadata"]["chosen"]["rollout"][-1] for pair in read(out)}
    assert chosen >= {"0"} and {pair["metadata"]["rejected"]["rollout"][-1] for pair in read(out)} == {"1", "5"}
    assert len(read(out)[0]["metadata"]["chosen"]["judgments"]) == 3
    with pytest.raises(UserError, match=r"no pair to train on .* 48 of 48 questions: no negative response"):
        main([*flags, "--agreement=unanimous"])
    ties = repeated(judged, tmp_path, lambda rollout: {"0": [True, False], "5": [False, False]}.get(rollout[-1], [True, True]))
    main([base[0], f"--judgments={ties}", *flags[2:]])
    assert manifest(out)["dropped"]["responses"]["judgments disagree"] == 48
    assert_adds_up(manifest(out))


def test_where_the_answer_is_not_known_the_judge_decides_what_is_wrong(sample, judged, tmp_path):
    rollouts = [rollout for rollout in read(sample / "rollouts.jsonl") if "options" not in rollout][:7]
    for rollout in rollouts:
        del rollout["answer"]
    digests = {rollout["id"]: Rollout.model_validate(rollout).content_digest for rollout in rollouts}
    judgments = [judgment | {"of": digests[judgment["parents"][0]]} for judgment in read(judged) if judgment["parents"][0] in digests]
    for judgment in judgments:
        del judgment["outcome"]
        judgment["correctness"] = {"met": not judgment["parents"][0].endswith("#2")}
    out = tmp_path / "p.jsonl"
    files = [f"--rollouts={write(tmp_path / 'r.jsonl', rollouts)}", f"--judgments={write(tmp_path / 'j.jsonl', judgments)}"]
    main([*files, f"--out={out}", f"--image_root={sample}", "--max_pairs=none", "--max_similarity=1"])
    assert manifest(out)["dropped"]["responses"] == {"judged wrong": 1}
    assert not any(pair["metadata"]["rejected"]["rollout"].endswith("#2") for pair in read(out))


@pytest.mark.slow
def test_dpo_trains_on_the_pairs_as_they_are_wherever_they_lie(base, sample, tmp_path, tiny_model, monkeypatch):
    from mede2_jax.train.__main__ import main as train

    out = tmp_path / "elsewhere" / "pairs.jsonl"
    main([*base, f"--out={out}", "--max_pairs=1", "--eval_fraction=0.2"])
    run = tmp_path / "run"
    flags = ["--stage=dpo", f"--model={tiny_model}", f"--data.path={out}", f"--data.eval_path={out.with_name('pairs.eval.jsonl')}"]
    train([*flags, f"--output={run}", "--max_steps=2", "--data.row_tokens=2048", "--rows_per_step=8", "--compute_dtype=float32"])
    steps = read(run / "metrics.jsonl")
    first = next(step for step in steps if "loss" in step)
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (run / "model" / "model.json").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda r, j: (r, [j[0] | {"of": "0" * 16}, *j[1:]]),
            r"j.jsonl:1: a judgment of another response than .*judge these rollouts first",
        ),
        (lambda r, j: (r[1:], j), r"j.jsonl:1: a judgment of 'sample-case-pneumothorax-1#0', which is not in .*r.jsonl"),
        (lambda r, j: (r, [*j, j[0]]), r"j.jsonl:8: field 'id': 'sample-case-pneumothorax-1#0@0' is there twice"),
        (lambda r, j: ([*r, r[0]], j), r"r.jsonl:9: field 'id': .* is also that of .*r.jsonl:1; ids must differ"),
        (lambda r, j: (r, [{"question": "x"}]), r"j.jsonl:1: field 'repeat' is missing"),
        (lambda r, j: (r, [j[0] | {"parents": []}]), r"j.jsonl:1: field 'parents' must hold the rollout's id"),
        (lambda r, j: (r, [j[0] | {"question": "x"}]), r"j.jsonl:1: field 'question' is 'x', but"),
        (
            lambda r, j: ([r[0], r[1] | {"images": [], "prompt": [*r[1]["prompt"][:1], {"role": "user", "content": "?"}]}], j),
            "another prompt",
        ),
        (lambda r, j: (j, r), r"j.jsonl:1: (field|unknown field)"),
    ],
)
def test_files_that_do_not_belong_together_are_one_line(sample, judged, tmp_path, capsys, change, expected):
    rollouts = read(sample / "rollouts.jsonl")[:8]
    judgments = [judgment for judgment in read(judged) if judgment["question"] == rollouts[0]["parents"][0]]
    rollouts, judgments = change(rollouts, judgments)
    files = [f"--rollouts={write(tmp_path / 'r.jsonl', rollouts)}", f"--judgments={write(tmp_path / 'j.jsonl', judgments)}"]
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*files, f"--out={tmp_path / 'p.jsonl'}", f"--image_root={sample}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl", "j.jsonl"}


def test_no_pair_possible_is_one_line_that_says_why(sample, judged, tmp_path):
    out = tmp_path / "p.jsonl"
    good = [judgment for judgment in read(judged) if all(judgment[aspect]["met"] for aspect in ASPECTS)]
    flags = [f"--rollouts={sample / 'rollouts.jsonl'}", f"--out={out}"]
    with pytest.raises(UserError, match=r"no pair to train on can be made of .*rollouts.jsonl: 48 of 48 questions: no negative response"):
        main([*flags, f"--judgments={write(tmp_path / 'good.jsonl', good)}"])
    with pytest.raises(UserError, match=r"48 of 48 questions: by limits; \d+ pairs: "):
        main([*flags, f"--judgments={judged}", "--max_length_ratio=1"])
    with pytest.raises(UserError, match=r"all 192 pairs are held out; use a smaller eval_fraction"):
        main([*flags, f"--judgments={judged}", "--eval_fraction=0.999999"])
    assert {path.name for path in tmp_path.iterdir()} == {"good.jsonl"}


def test_where_no_response_was_judged_it_is_said_why(sample, tmp_path):
    records = [record | {"finish_reason": "length"} for record in read(sample / "rollouts.jsonl")[:8]]
    rollouts, judgments = write(tmp_path / "rollouts.jsonl", records), tmp_path / "judgments.jsonl"
    judge([f"--rollouts={rollouts}", "--judge=offline", f"--out={judgments}", f"--image_root={sample}"])
    assert not judgments.exists()
    with pytest.raises(UserError, match=r"no response was judged \(truncated: 8\), so there are no pairs to make; see .*manifest"):
        main([f"--rollouts={rollouts}", f"--judgments={judgments}", f"--out={tmp_path / 'pairs.jsonl'}"])


def test_a_file_that_was_not_made_here_is_not_replaced(base, sample, tmp_path):
    out = tmp_path / "pairs.jsonl"
    out.write_text("precious\n")
    with pytest.raises(UserError, match=r"pairs.jsonl is there and was not made by python -m mede2_jax.pair"):
        main([*base, f"--out={out}"])
    assert out.read_text() == "precious\n"
    copy = tmp_path / "r.jsonl"
    shutil.copy(sample / "rollouts.jsonl", copy)
    with pytest.raises(UserError, match="was not made by"):
        main([f"--rollouts={copy}", base[1], f"--out={copy}", f"--image_root={sample}"])


def test_judgments_that_are_missing_are_said(base, judged, tmp_path, capsys):
    judgments = tmp_path / "j.jsonl"
    shutil.copy(judged, judgments)
    for change, expected in [({"finished": False}, "judging has not come to its end"), ({"failed": [{}] * 3}, "3 judgments failed, see")]:
        judgments.with_name("j.jsonl.manifest.json").write_text(json.dumps(manifest(judged) | change))
        main([base[0], f"--judgments={judgments}", f"--out={tmp_path / 'p.jsonl'}"])
        assert expected in capsys.readouterr().out


def test_what_a_killed_run_left_is_not_taken_up(base, tmp_path):
    out = tmp_path / "pairs.jsonl"
    (tmp_path / ".pairs.jsonl.partial").write_text('{"half": ')
    main([*base, f"--out={out}"])
    assert len(read(out)) == 192 and {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "pairs.jsonl.manifest.json"}


def test_a_failure_leaves_the_pairs_that_were_there(base, judged, tmp_path):
    out = tmp_path / "pairs.jsonl"
    main([*base, f"--out={out}"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError):
        main([*base, f"--out={out}", "--max_length_ratio=1"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--judgments={tmp}/none.jsonl"], "cannot read data file"),
        (["--rollouts={tmp}/none.jsonl"], "cannot read data file"),
        (["--out={tmp}"], "--out=.* is a folder; give a file"),
        (["--criteria=kindness"], "--criteria: .*'logical_consistency', 'image_analysis', 'no_hallucination' or 'reflection'"),
        (["--criteria=reflection,reflection"], "must name each criterion once"),
        (["--max_similarity=0"], "--max_similarity"),
        (["--eval_fraction=1"], "--eval_fraction"),
        (["--max_length_ratio=0.5"], "--max_length_ratio"),
        (["--val_size=0.1"], "did you mean '--eval_fraction'"),
        (["--image_root={tmp}"], r"rollouts.jsonl:1: image 'images/pneumothorax-1a.png' not found"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(base, tmp_path, capsys, flags, expected):
    given = [
        flag for flag in [*base, f"--out={tmp_path / 'p.jsonl'}"] if flag.split("=")[0] not in {other.split("=")[0] for other in flags}
    ]
    with pytest.raises(SystemExit) as stop:
        run_command(main, given + [flag.format(tmp=tmp_path) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert not list(tmp_path.iterdir())


def test_the_embedded_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no runs/judgments.jsonl yet: run python -m mede2_jax.judge first"):
        main([])
    judge([])
    main([])
    assert len(read(Path("runs/pairs.jsonl"))) == 192
