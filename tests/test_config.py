"""The command line: defaults < base < YAML < flags, and one line for every mistake."""

import math
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pydantic
import pytest
import tyro
from pydantic import Field, model_validator

from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.config import Config, UserError, counted, read_yaml, to_yaml
from mede2_jax.convert import ConvertConfig
from mede2_jax.flags import parse
from mede2_jax.judge.config import JudgeConfig
from mede2_jax.pair.config import PairConfig
from mede2_jax.plan.config import PlanConfig
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.train.config import TrainConfig
from mede2_jax.tree import unflatten


class Adapter(Config):
    rank: int = Field(8, ge=1)
    """Rank of the update."""
    alpha: float = 16.0
    """Scale of the update."""
    on: bool = True
    """Whether to adapt."""
    targets: tuple[str, ...] = ("all",)
    """Layers to adapt."""


class Source(Config):
    name: str
    """Required name."""
    rows: int = 1
    """Rows."""


class Job(Config):
    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"lr": "rate"}

    from_: Annotated[Path, tyro.conf.arg(name="from")] = Field(alias="from")
    """Where to start."""
    lora: Adapter = Adapter(alpha=32.0)
    """Low-rank section."""
    rate: float | None = Field(None, gt=0)
    """Step size."""
    mode: Literal["fast", "exact"] = "fast"
    """How."""
    dry_run: bool = False
    """Whether to write nothing."""

    @model_validator(mode="after")
    def _check(self):
        if self.mode == "exact" and self.dry_run:
            raise ValueError("exact and dry_run exclude each other")
        return self


class Nested(Config):
    source: Source
    """Required section."""
    extra: Adapter | None = None
    """Optional section."""


def call(*flags, config_type=Job, base=None):
    return parse(config_type, list(flags), program="job", description="Does a job.", base=base)


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        (tmp_path / "job.yaml").write_text(text)
        return f"--config={tmp_path / 'job.yaml'}"

    return write


def test_precedence(yaml_file):
    file = yaml_file("from: yaml\nlora:\n  rank: 4\nrate: 1e-4\n")
    base = {"lora": {"rank": 2, "on": False}, "mode": "exact"}
    assert call("--from=x").lora == Adapter(alpha=32.0)
    assert call("--from=x", base=base).lora.rank == 2
    assert call(file, base=base).lora.rank == 4
    job = call(file, "--lora.rank=16", "--from=flag", base=base)
    assert (job.lora.rank, job.from_, job.rate, job.mode) == (16, Path("flag"), 1e-4, "exact")
    # One flag of a section leaves what the section's default instance, the base and the file set.
    assert (job.lora.alpha, job.lora.on) == (32.0, False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rate=3e-4"], {"rate": 3e-4}),
        (["--rate", "3e-4"], {"rate": 3e-4}),
        (["--rate=none"], {"rate": None}),
        (["--rate=1", "--rate=2"], {"rate": 2.0}),
        (["--dry-run"], {"dry_run": True}),
        (["--dry_run=true"], {"dry_run": True}),
        (["--dry_run", "true", "--mode=fast"], {"dry_run": True}),
        (["--dry_run=True", "--no-dry-run"], {"dry_run": False}),
        (["--mode", "exact"], {"mode": "exact"}),
    ],
)
def test_flags(flags, expected):
    assert call("--from=x", *flags).model_dump(include=set(expected)) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--lora.on=false"], {"on": False}),
        (["--lora.no-on"], {"on": False}),
        (["--lora.no_on=false"], {"on": True}),
        (["--lora.targets", "q", "k", "--lora.rank", "3"], {"targets": ("q", "k"), "rank": 3}),
        (["--lora.targets=q,k"], {"targets": ("q", "k")}),
    ],
)
def test_flags_of_a_section(flags, expected):
    assert call("--from=x", *flags).lora.model_dump(include=set(expected)) == expected


def test_required_and_optional_sections(yaml_file):
    file = yaml_file("source:\n  rows: 5\n")
    assert call(file, "--source.name=a", config_type=Nested).source == Source(name="a", rows=5)
    assert call("--source.name=a", config_type=Nested).extra is None
    assert call("--source.name=a", "--extra.rank=2", config_type=Nested).extra == Adapter(rank=2)
    file = yaml_file("source:\n  name: b\nextra:\n  rank: 3\n")
    assert call(file, "--extra=none", config_type=Nested).extra is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "missing option --from; see --help"),
        (["--form=x"], "unknown option '--form' (did you mean '--from'?); see --help"),
        (["--from=x", "--lora.rnk=4"], "unknown option '--lora.rnk' (did you mean '--lora.rank'?); see --help"),
        (["--from=x", "--rank=4"], "unknown option '--rank' (did you mean '--lora.rank'?); see --help"),
        (["--from=x", "--lora-rank=4"], "unknown option '--lora-rank' (did you mean '--lora.rank'?); see --help"),
        (["--from=x", "--lr=4"], "unknown option '--lr' (did you mean '--rate'?); see --help"),
        (["--from=x", "--lora=4"], "unknown option '--lora' (did you mean '--lora.…'?); see --help"),
        (["--from=x", "--zzz"], "unknown option '--zzz'; see --help"),
        (["--from=x", "--mdoe=fast"], "unknown option '--mdoe' (did you mean '--mode'?); see --help"),
        (["--from=x", "--node=2"], "unknown option '--node' (did you mean '--mode'?); see --help"),
        (["--from=x", "--save_mode=fast"], "unknown option '--save_mode'; see --help"),
        (
            ["--zzz", "1", "2", "--lora_rank", "4", "--form=x", "--mode=fast"],
            "unknown options '--zzz', '--lora_rank' (did you mean '--lora.rank'?), '--form' (did you mean '--from'?); see --help",
        ),
        (["--from=x", "stray"], "unexpected argument 'stray'; options are written --name=value, see --help"),
        (["--from="], "--from needs a value: --from=VALUE"),
        (["--from"], "--from needs a value: --from=VALUE"),
        (["--from", "--mode=fast"], "--from needs a value: --from=VALUE"),
        (["--from=x", "--lora.targets="], "--lora.targets needs a value: --lora.targets=A,B"),
        (
            ["--from=x", "--lora.rank=five"],
            "--lora.rank: Input should be a valid integer, unable to parse string as an integer (got 'five')",
        ),
        (["--from=x", "--lora.rank=0"], "--lora.rank: Input should be greater than or equal to 1 (got '0')"),
        (["--from=x", "--rate", "-1"], "--rate: Input should be greater than 0 (got '-1')"),
        (["--from=x", "--mode=slow"], "--mode: Input should be 'fast' or 'exact' (got 'slow')"),
        (["--from=x", "--dry_run=maybe"], "--dry_run: Input should be a valid boolean, unable to interpret input (got 'maybe')"),
        (["--from=x", "--mode=exact", "--dry_run"], "exact and dry_run exclude each other"),
        (["--config"], "--config needs a file: --config=configs/NAME.yaml"),
        (["--config=a", "--config=b"], "--config is given twice ('a' and 'b'); give one file"),
        (["--config=nowhere.yaml"], "cannot read config 'nowhere.yaml': No such file or directory"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, message):
    with pytest.raises(UserError) as error:
        call(*flags)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from: x\nlora:\n  rnk: 4\n", ": unknown key 'lora.rnk' (did you mean 'lora.rank'?)"),
        ("from: x\nlorra: {}\n", ": unknown key 'lorra' (did you mean 'lora'?)"),
        ("from: x\nrank: 4\n", ": unknown key 'rank' (did you mean 'lora: {rank: …}'?)"),
        ("from: x\nlora_rank: 4\n", ": unknown key 'lora_rank' (did you mean 'lora: {rank: …}'?)"),
        ("from: x\nlora.rank: 4\n", ": unknown key 'lora.rank' (did you mean 'lora: {rank: …}'?)"),
        ("from_: x\n", ": unknown key 'from_' (did you mean 'from'?)"),
        ("from: x\nlora:\n  lr: 4\n", ": unknown key 'lora.lr' (did you mean 'rate'?)"),
        (
            "form: x\nzzz: [1]\nlora:\n  rnk: 4\n  yyy: 5\n",
            ": unknown keys 'form' (did you mean 'from'?), 'zzz', 'lora.rnk' (did you mean 'lora.rank'?), 'lora.yyy'",
        ),
        ("from: x\nlora:\n  rank: big\n", ": lora.rank: Input should be a valid integer, unable to parse string as an integer (got 'big')"),
        ("from: x\nlora: 4\n", ": lora: Input should be a valid dictionary or instance of Adapter (got 4)"),
        ("from: x\nfrom: y\n", ", line 2: not valid YAML: key 'from' is given twice"),
        ("from: [\n", ", line 2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("- a\n", ": expected a mapping of options, found list"),
    ],
)
def test_a_wrong_yaml_is_one_line_that_names_the_file(yaml_file, text, message):
    flag = yaml_file(text)
    with pytest.raises(UserError) as error:
        call(flag)
    assert str(error.value) == flag.removeprefix("--config=") + message


def test_a_flag_overrides_a_wrong_yaml_value(yaml_file):
    assert call(yaml_file("from: x\nlora:\n  rank: 0\n"), "--lora.rank=2").lora.rank == 2


def test_a_word_after_the_config_file_is_nobodys_value(yaml_file):
    with pytest.raises(UserError, match="unexpected argument 'false'"):
        call("--dry_run", yaml_file("from: x\n"), "false")


def test_a_section_of_comments_counts_as_absent(yaml_file):
    assert call(yaml_file("from: x\nlora:\n  # rank: 4\n")).lora == Adapter(alpha=32.0)
    assert call(yaml_file("# nothing\n"), "--from=x").rate is None


def test_help_shows_descriptions_and_current_values(capsys, yaml_file):
    with pytest.raises(SystemExit) as stop:
        call(yaml_file("lora:\n  rank: 77\n"), "--help")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "Does a job.",
        "--from PATH",
        "Where to start. (required)",
        "--lora.rank INT",
        "Rank of the update. (default: 77)",
        "{fast,exact}",
    ):
        assert text in shown, text


@pytest.mark.slow
def test_help_may_be_cut_short():
    """`--help | head` closes the pipe before all is written."""
    command = [sys.executable, "-m", "mede2_jax.convert", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


def test_the_same_name_in_two_sections():
    class Twice(Config):
        one: Adapter = Adapter()
        two: Adapter = Adapter()

    for written in ("two.rnk", "two_rank"):
        with pytest.raises(UserError, match=r"did you mean '--two\.rank'"):
            call(f"--{written}=1", config_type=Twice)


def test_a_former_name_is_not_accepted():
    assert "FORMER_NAMES" not in Job.model_fields
    with pytest.raises(UserError, match="unknown option '--lr'"):
        call("--from=x", "--lr=1")


def test_yaml_round_trip(tmp_path):
    job = call("--from=x", "--lora.rank=3", "--rate=1e-5", "--lora.targets=q,k")
    (tmp_path / "out.yaml").write_text(to_yaml(job))
    assert call(f"--config={tmp_path / 'out.yaml'}") == job
    assert read_yaml(Job, tmp_path / "out.yaml")["from"] == "x"


def test_counted():
    assert [counted(count, "step") for count in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]


def float_options(config, prefix=()):
    """The options of a config that are numbers, with those of its sections, each as the values that set it."""
    for name, field in config.model_fields.items():
        for kind in typing.get_args(field.annotation) or (field.annotation,):
            if kind is float:
                yield (*prefix, field.alias or name)
            elif isinstance(kind, type) and issubclass(kind, Config):
                yield from float_options(kind, (*prefix, field.alias or name))


@pytest.mark.parametrize("config", [TrainConfig, RolloutConfig, JudgeConfig, PairConfig, BenchmarkConfig, PlanConfig, ConvertConfig])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_no_option_is_infinite_or_no_number(config, number):
    options = list(float_options(config))
    assert options
    for option in options:
        with pytest.raises(pydantic.ValidationError) as fault:
            config.model_validate(unflatten({".".join(option): number}, "."))
        assert option in [error["loc"] for error in fault.value.errors()]
