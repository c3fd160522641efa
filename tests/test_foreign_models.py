"""Files of models that anybody may have written: one line names file and field, and nothing else happens."""

import json
import struct

import pytest
from foreign_texts import DEEP, DIGITS, TITLE, refusal, stopped

from mede2_jax import convert, tiny
from mede2_jax.data.records import ImagePart, Message
from mede2_jax.families import family_named, model_config
from mede2_jax.tiny_checkpoints import internvl3, qwen2_5_vl
from mede2_jax.weights.hf import INDEX, CheckpointReader, read_header
from mede2_jax.weights.model_info import read_info
from mede2_jax.weights.params import TREE_METADATA, ParamReader
from mede2_jax.weights.peft import CONFIG, import_adapter


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tiny checkpoint of each family, by its name."""
    folders = {}
    for family in ("qwen2_5_vl", "internvl3"):
        folders[family] = tmp_path_factory.mktemp("hf") / family
        recipe = {"qwen2_5_vl": qwen2_5_vl.RECIPE, "internvl3": internvl3.HF}[family]
        tiny.write_tiny_checkpoint(folders[family], texts=["a scan of the lung"], vocab_size=300, recipe=recipe)
    return folders


@pytest.fixture
def linked(checkpoints, tmp_path):
    """A folder with a checkpoint's files, of which one can be put in another's place."""

    def link(family, name, content):
        folder = tmp_path / "model"
        folder.mkdir()
        for file in checkpoints[family].iterdir():
            if file.name != name:
                (folder / file.name).symlink_to(file)
        (folder / name).write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return folder

    return link


def changed(file, **changes):
    """JSON with values at dotted names (`__` for the dot) in another's place."""
    content = json.loads(file.read_text())
    for name, value in changes.items():
        *sections, last = name.split("__")
        at = content
        for section in sections:
            at = at[section]
        at[last] = value
    return json.dumps(content)


# Models.


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("qwen2_5_vl", {"hidden_size": "64"}, "config.json: hidden_size: Input should be a valid integer (got '64')"),
        ("qwen2_5_vl", {"hidden_size": True}, "hidden_size: Input should be a valid integer (got True)"),
        ("qwen2_5_vl", {"hidden_size": None}, "'hidden_size' is missing"),
        ("qwen2_5_vl", {"num_hidden_layers": -3}, "num_hidden_layers: Input should be greater than 0 (got -3)"),
        ("qwen2_5_vl", {"num_hidden_layers": 10**9}, "num_hidden_layers: Input should be less than"),
        ("qwen2_5_vl", {"num_attention_heads": 2.5}, "num_attention_heads: Input should be a valid integer"),
        ("qwen2_5_vl", {"rms_norm_eps": "x"}, "rms_norm_eps: Input should be a valid number"),
        ("qwen2_5_vl", {"num_key_value_heads": 3}, "does not divide into num_key_value_heads=3"),
        ("qwen2_5_vl", {"vision_config__patch_size": []}, "vision patch_size: Input should be a valid integer (got [])"),
        ("qwen2_5_vl", {"vision_config__window_size": 1}, "window_size=1 is less than"),
        *(("qwen2_5_vl", {"rms_norm_eps": eps}, "rms_norm_eps: Input should be") for eps in (0, -1e-6, 1e-300, 1e-31, 1, True)),
        *(("qwen2_5_vl", {"rope_theta": theta}, "rope_theta: Input should be") for theta in (0, 1e-300, 0.5, 1e300, 10**400, True)),
        *(
            ("qwen2_5_vl", {"vision_config__fullatt_block_indexes": layers}, "fullatt_block_indexes")
            for layers in ([1, 1], [99], [10**400], [-1], [True], [1.0])
        ),
        ("qwen2_5_vl", {"vision_config__in_chans": 4}, "in_channels=4 is not supported"),
        ("qwen2_5_vl", {"vision_config": None}, "'vision_config' is missing"),
        ("qwen2_5_vl", {"vision_config": [1]}, "vision_config must be an object (got [1])"),
        ("qwen2_5_vl", {"text_config": 3}, "text_config must be an object (got 3)"),
        ("qwen2_5_vl", {"rope_scaling": "x"}, "rope_scaling: Input should be a valid dictionary"),
        ("qwen2_5_vl", {"rope_scaling__type": ["a"]}, "rope_scaling.type: Input should be a valid string"),
        ("qwen2_5_vl", {"model_type": TITLE}, "model_type '\\x1b]0;title\\x07\\x1b[2J' is not supported"),
        ("qwen2_5_vl", {"hidden_act": TITLE}, "hidden_act='\\x1b]0;title\\x07\\x1b[2J' is not supported"),
        ("internvl3", {"text_config__layer_types": 1}, "layer_types: Input should be a valid list"),
        ("internvl3", {"text_config__architectures": {"a": 1}}, "architectures: Input should be a valid list"),
        ("internvl3", {"text_config": None}, "'text_config' is missing"),
        ("internvl3", {"vision_config__image_size": [[448], [448]]}, "image_size"),
        ("internvl3", {"vision_config__layer_norm_eps": "1e-6"}, "vision layer_norm_eps: Input should be a valid number"),
        *(
            ("internvl3", {"vision_config__layer_norm_eps": eps}, "vision layer_norm_eps: Input should be")
            for eps in (0, -0.0, 1e-300, 10**400, True)
        ),
        *(("internvl3", {"text_config__rope_theta": theta}, "rope_theta: Input should be") for theta in (-1, 1e-9, 1e39, 10**30)),
        ("internvl3", {"downsample_ratio": "0.5"}, "downsample_ratio: Input should be a valid number"),
        ("internvl3", {"downsample_ratio": 5e-324}, "does not divide a tile"),
    ],
)
def test_config_json(family, changes, says, checkpoints, linked, tmp_path, capfd):
    folder = linked(family, "config.json", changed(checkpoints[family] / "config.json", **changes))
    assert says in refusal(lambda: model_config(folder)).replace("\\\\", "\\")
    assert says in stopped(capfd, convert.main, f"--from={folder}", f"--to={tmp_path / 'to'}").replace("\\\\", "\\")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl3"])
def test_layers_without_number(family, checkpoints, linked):
    """transformers makes a list of them when it opens the tokenizer."""
    name = "num_hidden_layers" if family == "qwen2_5_vl" else "text_config__num_hidden_layers"
    folder = linked(family, "config.json", changed(checkpoints[family] / "config.json", **{name: 2**63}))
    message = refusal(lambda: family_named(family).load_processor(folder))
    assert "num_hidden_layers: Input should be less than or equal to 1000" in message


@pytest.mark.parametrize("content", [b"\xff", DEEP, "[1]", "3", '{"a": ' + DIGITS + "}", '{"model_type": NaN}', '{"a": 1, "a": 2}', ""])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_json_that_is_none(content, name, linked):
    folder = linked("qwen2_5_vl", name, content)
    assert str(folder) in refusal(lambda: family_named("qwen2_5_vl").load_processor(folder))


def test_nulls_are_read_as_transformers_reads_them(checkpoints, linked):
    plain = model_config(checkpoints["qwen2_5_vl"])[1]
    nulls = {"text_config": None, "head_dim": None, "rope_theta": 1e6, "use_sliding_window": None, "num_key_value_heads": None}
    folder = linked("qwen2_5_vl", "config.json", changed(checkpoints["qwen2_5_vl"] / "config.json", **nulls))
    language = model_config(folder)[1].language
    assert (language.head_dim, language.num_kv_heads) == (plain.language.head_dim, plain.language.num_heads)


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("qwen2_5_vl", {"image_std": [0, 1, 1]}, "image_std.0: Input should be greater than"),
        ("qwen2_5_vl", {"image_mean": [0.5, 0.5]}, "image_mean: List should have at least 3 items"),
        ("qwen2_5_vl", {"image_mean": ["a", 0.5, 0.5]}, "image_mean.0: Input should be a valid number"),
        ("qwen2_5_vl", {"patch_size": []}, "patch_size"),
        ("qwen2_5_vl", {"patch_size": "14"}, "patch_size"),
        ("qwen2_5_vl", {"merge_size": 0}, "merge_size: Input should be greater than 0"),
        ("qwen2_5_vl", {"temporal_patch_size": 4}, "temporal_patch_size is 2 in config.json but 4"),
        ("qwen2_5_vl", {"do_resize": False}, "do_resize"),
        ("qwen2_5_vl", {"resample": 99}, "resample"),
        *(("qwen2_5_vl", {"rescale_factor": factor}, "rescale_factor") for factor in (None, 0, -0.0, -1, 1e-300, 1e300, 10**400, True)),
        ("internvl3", {"image_std": [0.5, 0.5, 0.0]}, "image_std.2: Input should be greater than"),
        ("internvl3", {"min_patches": "1"}, "min_patches"),
        ("internvl3", {"max_patches": 10**9}, "max_patches: Input should be less than or equal to 256"),
        ("internvl3", {"resample": None}, "resample"),
    ],
)
def test_image_processors(family, changes, says, checkpoints, linked):
    folder = linked(family, "preprocessor_config.json", changed(checkpoints[family] / "preprocessor_config.json", **changes))
    message = refusal(lambda: family_named(family).load_processor(folder))
    assert says in message and str(folder) in message


def test_tokenizer_files(checkpoints, linked, capfd):
    """The tokenizer's library quotes what it met, and prints names of fields itself."""
    source = checkpoints["qwen2_5_vl"] / "tokenizer.json"
    folder = linked("qwen2_5_vl", "tokenizer.json", changed(source, model__type=TITLE))
    message = refusal(lambda: family_named("qwen2_5_vl").load_processor(folder))
    assert "cannot load the tokenizer" in message
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(source)
    (folder / "tokenizer_config.json").unlink()
    token = {"__type": "AddedToken", "content": "x", TITLE: True}
    (folder / "tokenizer_config.json").write_text(changed(checkpoints["qwen2_5_vl"] / "tokenizer_config.json", bos_token=token))
    assert "unknown field '\\\\x1b" in refusal(lambda: family_named("qwen2_5_vl").load_processor(folder))
    assert "\x1b" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ 1/0 }}", "ZeroDivisionError"),
        ("{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}", "one for texts only"),
        ("{{ messages[7].content.x }}", "the chat template"),
        ("{{ raise_exception('" + TITLE + "') }}", "refuses the conversation: \\x1b]0;title"),
        ("{% for", "the chat template"),
        ("{{ [].pop() }}", "the chat template"),
    ],
)
def test_chat_templates(template, says, checkpoints, linked):
    settings = json.loads((checkpoints["qwen2_5_vl"] / "tokenizer_config.json").read_text())
    folder = linked("qwen2_5_vl", "tokenizer_config.json", json.dumps(settings | {"chat_template": template}))
    picture = Message(role="user", content=(ImagePart(),))
    assert says in refusal(lambda: family_named("qwen2_5_vl").load_processor(folder).chat.prompt([picture]))


# Weights.


def header(text):
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data + bytes(8)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DEEP, "malformed safetensors header (JSON nested too deeply)"),
        (b'{"\xff": 1}', "not UTF-8 text"),
        ('{"a": 3}', "tensor 'a'"),
        ('{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}', "dtype: Input should be a valid string"),
        ('{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "shape.0: Input should be a valid integer"),
        ('{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}', "shape.0: Input should be a valid integer"),
        ('{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4, 8]}}', "data_offsets: List should have at most 2 items"),
        ('{"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}', "shape: Input should be a valid list"),
        ('{"a": {"dtype": "F32", "shape": [' + DIGITS + '], "data_offsets": [0, 4]}}', "a number of more than 4,300 digits"),
        ('{"' + TITLE.replace("\x1b", "\\u001b").replace("\x07", "\\u0007") + '": {}}', "\\x1b]0;title\\x07"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
    ],
)
def test_safetensors_headers(text, says, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(header(text))
    message = refusal(lambda: read_header(tmp_path / "model.safetensors")).replace("\\\\", "\\")
    assert says in message and "fetch it again" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (DEEP, "JSON nested too deeply"),
        ('{"weight_map": {"a": "' + "x" * 300 + '.safetensors"}}', "is not the name of a .safetensors file"),
        ('{"weight_map": {"a": "\\u0000.safetensors"}}', "is not the name of a .safetensors file"),
        ('{"weight_map": {"a": "\\ud800.safetensors"}}', "is not the name of a .safetensors file"),
        ('{"weight_map": {"a": ["b"]}}', "is not the name of a .safetensors file"),
        ('{"weight_map": {"a": "\\u001b[2J.safetensors"}}', "\\x1b[2J.safetensors"),
        ('{"weight_map": [1]}', "weight_map: Input should be a valid dictionary"),
        ("{}", "weight_map: Field required"),
    ],
)
def test_indexes(content, says, tmp_path):
    (tmp_path / INDEX).write_text(content)
    assert says in refusal(lambda: CheckpointReader(tmp_path)).replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora_alpha": float("nan")}, "NaN is no JSON number"),
        ({"lora_alpha": float("inf")}, "Infinity is no JSON number"),
        ({"lora_alpha": True}, "lora_alpha: Input should be a valid number (got True)"),
        *(({"lora_alpha": alpha}, "lora_alpha: Input should be") for alpha in (1e300, -1e39, 10**30, 10**400, 2e6)),
        ({"lora_alpha": "16"}, "lora_alpha: Input should be a valid number (got '16')"),
        ({"lora_dropout": "a lot"}, "lora_dropout: Input should be a valid number (got 'a lot')"),
        ({"lora_dropout": {}}, "lora_dropout: Input should be a valid number (got {})"),
        ({"lora_dropout": 2}, "lora_dropout: Input should be less than or equal to 1"),
        ({"r": True}, "r: Input should be a valid integer"),
        ({"use_rslora": "yes"}, "use_rslora: Input should be a valid boolean"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path: Input should be a valid string"),
        ({"peft_type": TITLE}, "peft_type '\\x1b]0;title"),
        ({"init_lora_weights": []}, "init_lora_weights"),
    ],
)
def test_adapter_configs(changes, says, tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | changes))
    message = refusal(lambda: import_adapter(tmp_path, None, {})).replace("\\\\", "\\")
    assert says in message and str(tmp_path / CONFIG) in message


@pytest.mark.parametrize(
    "content", [DEEP, "[]", "{}", '{"use_ocdbt": "yes", "tree_metadata": {}}', '{"use_ocdbt": true, "tree_metadata": {"a": 1}}']
)
def test_model_directories(content, tmp_path):
    (tmp_path / TREE_METADATA).write_text(content)
    assert "convert or save the model again" in refusal(lambda: ParamReader(tmp_path))
    (tmp_path / "model.json").write_text(content)
    assert "convert the model again" in refusal(lambda: read_info(tmp_path))
