"""The weight table of a Qwen2 decoder, alone or inside a vision-language model."""

from __future__ import annotations

from mede2_jax.weights.table import Rule, Transpose


def decoder_rules(*, hf: str, head: str, path: str, tied: bool) -> tuple[Rule, ...]:
    """Rules for the embedding, the layers, the last norm and the head.

    Args:
        hf: What the decoder's tensor names start with, such as `model.`.
        head: The head's tensor name.
        path: Where the decoder lies among the parameters, such as `language`.
        tied: The head is the embedding: it is not stored, and if a checkpoint repeats it, it must be equal.
    """
    embedding = f"{hf}embed_tokens.weight"
    layer_hf, layer_path = f"{hf}layers.{{layer}}.", f"{path}/layers/"
    rules = [Rule(embedding, f"{path}/embed/embedding"), Rule(f"{layer_hf}input_layernorm.weight", f"{layer_path}input_norm/scale")]
    for name in ("q_proj", "k_proj", "v_proj"):
        rules.append(Rule(f"{layer_hf}self_attn.{name}.weight", f"{layer_path}attention/{name}/kernel", Transpose()))
        rules.append(Rule(f"{layer_hf}self_attn.{name}.bias", f"{layer_path}attention/{name}/bias"))
    rules.append(Rule(f"{layer_hf}self_attn.o_proj.weight", f"{layer_path}attention/o_proj/kernel", Transpose()))
    rules.append(Rule(f"{layer_hf}post_attention_layernorm.weight", f"{layer_path}post_attention_norm/scale"))
    for name in ("gate_proj", "up_proj", "down_proj"):
        rules.append(Rule(f"{layer_hf}mlp.{name}.weight", f"{layer_path}mlp/{name}/kernel", Transpose()))
    rules.append(Rule(f"{hf}norm.weight", f"{path}/norm/scale"))
    rules.append(Rule(head, None, same_as=embedding) if tied else Rule(head, f"{path}/head/embedding"))
    # Old transformers saved the rotary frequencies, which follow from the config.
    rules.append(Rule(f"{layer_hf}self_attn.rotary_emb.inv_freq", None))
    rules.append(Rule(f"{hf}rotary_emb.inv_freq", None))
    return tuple(rules)
