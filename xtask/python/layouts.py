"""Small random models of every layout that transformers writes, and what it says of them.

    layouts.py make OUT        one folder a model: config.json, weights, tokens.json, logits.json, greedy.json, and changed.json, the key of
                               the class's usual configuration that differs in it, if one does
    layouts.py check FOLDER... logits of folders that hairpin exported against their logits.json
    layouts.py train FOLDER    losses of AdamW on the batches in FOLDER/batches.json, as FOLDER/losses.json
    layouts.py lm-eval FOLDER  what lm-eval makes of the tasks in FOLDER/tasks.json, as FOLDER/lm-eval.json
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

VOCAB, PROMPT, WRITTEN = 97, 24, 12
LLAMA = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64)
ROPES = [
    dict(rope_type="linear", factor=3.0, rope_theta=10000.0),
    dict(rope_type="dynamic", factor=2.0, rope_theta=10000.0),
    dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0),
    dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0),
    dict(rope_type="longrope", factor=4.0, short_factor=[1.0] * 8, long_factor=[2.0] * 8, original_max_position_embeddings=16, rope_theta=10000.0),
]
LIKE_LLAMA = dict(tie_word_embeddings=[True, False], num_key_value_heads=[1, 4], head_dim=[32], rms_norm_eps=[1e-3], rope_parameters=ROPES,
                  hidden_act=["gelu_pytorch_tanh", "relu"], attention_bias=[True], mlp_bias=[True], max_position_embeddings=[128],
                  partial_rotary_factor=[0.5])
YARN_OF_DEEPSEEK = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=10000.0, mscale=0.7, mscale_all_dim=0.9)
LATENT = dict(LLAMA, num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
              n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, moe_intermediate_size=32, first_k_dense_replace=1)
GPT2 = dict(vocab_size=VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=64)
BLOCKS = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64)

# The usual small configuration of a class, and the values that each key takes in turn.
LAYOUTS = {
    "gpt2": (GPT2, dict(activation_function=["gelu", "relu", "gelu_pytorch_tanh"], n_inner=[80], layer_norm_epsilon=[1e-3],
                        scale_attn_weights=[False], scale_attn_by_inverse_layer_idx=[True], reorder_and_upcast_attn=[True],
                        tie_word_embeddings=[False], add_cross_attention=[True])),
    "llama": (LLAMA, LIKE_LLAMA),
    "mistral": (dict(LLAMA, sliding_window=8), dict(LIKE_LLAMA, sliding_window=[None, 5, 4096])),
    "qwen2": (LLAMA, dict(LIKE_LLAMA, use_sliding_window=[True], max_window_layers=[2])),
    "qwen3": (dict(LLAMA, head_dim=16), dict(LIKE_LLAMA, use_sliding_window=[True])),
    "olmo2": (LLAMA, LIKE_LLAMA),
    "phi3": (dict(LLAMA, pad_token_id=None), dict(LIKE_LLAMA, sliding_window=[8])),
    "stablelm": (LLAMA, dict(tie_word_embeddings=[True], num_key_value_heads=[1, 4], layer_norm_eps=[1e-3], use_qkv_bias=[True],
                             qk_layernorm=[True], use_parallel_residual=[True], partial_rotary_factor=[0.5, 1.0], hidden_act=["gelu"])),
    "starcoder2": (LLAMA, dict(tie_word_embeddings=[False], num_key_value_heads=[1, 4], norm_epsilon=[1e-3], use_bias=[False],
                               sliding_window=[8], hidden_act=["gelu", "silu"], rope_parameters=ROPES[:2])),
    "mixtral": (dict(LLAMA, num_local_experts=5), dict(LIKE_LLAMA, num_experts_per_tok=[1, 3], sliding_window=[8])),
    "olmoe": (dict(LLAMA, num_experts=6, num_experts_per_tok=2), dict(LIKE_LLAMA, norm_topk_prob=[True], clip_qkv=[1.0], num_experts_per_tok=[4])),
    "qwen3_moe": (dict(LLAMA, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40, head_dim=16),
                  dict(LIKE_LLAMA, norm_topk_prob=[True], mlp_only_layers=[[1]], decoder_sparse_step=[2], use_sliding_window=[True])),
    "granite": (dict(LLAMA, embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.5, attention_multiplier=0.2),
                dict(LIKE_LLAMA, embedding_multiplier=[1.0], logits_scaling=[1.0], residual_multiplier=[1.0], attention_multiplier=[0.25])),
    "smollm3": (dict(LLAMA, pad_token_id=None, bos_token_id=None, eos_token_id=None),
                dict(LIKE_LLAMA, no_rope_layers=[[0, 1, 1, 0], [1, 1, 1, 1]], no_rope_layer_interval=[2], use_sliding_window=[True])),
    "gemma": (dict(LLAMA, head_dim=24), {k: v for k, v in LIKE_LLAMA.items() if k != "mlp_bias"} | dict(use_bidirectional_attention=[True])),
    "gemma2": (dict(LLAMA, head_dim=24, query_pre_attn_scalar=20, sliding_window=8, attn_logit_softcapping=1.5, final_logit_softcapping=3.0),
               dict(tie_word_embeddings=[False], num_key_value_heads=[1, 4], head_dim=[32], rms_norm_eps=[1e-3], rope_parameters=ROPES[:4],
                    hidden_activation=["relu"], attention_bias=[True], query_pre_attn_scalar=[24], sliding_window=[4, 4096],
                    attn_logit_softcapping=[None, 0.5], final_logit_softcapping=[None], use_bidirectional_attention=[True],
                    layer_types=[["full_attention"] * 4, ["sliding_attention"] * 4, ["full_attention", "sliding_attention"] * 2])),
    "gemma3_text": (dict(LLAMA, head_dim=24, query_pre_attn_scalar=20, sliding_window=8, num_hidden_layers=7),
                    dict(tie_word_embeddings=[False], num_key_value_heads=[1, 4], head_dim=[32], rms_norm_eps=[1e-3], attention_bias=[True],
                         query_pre_attn_scalar=[24], sliding_window=[4], attn_logit_softcapping=[2.0], final_logit_softcapping=[3.0],
                         hidden_activation=["relu"], use_bidirectional_attention=[True], sliding_window_pattern=[3],
                         rope_parameters=[dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                               sliding_attention=dict(rope_type="default", rope_theta=10000.0)),
                                          dict(full_attention=dict(rope_type="default", rope_theta=5e5),
                                               sliding_attention=dict(rope_type="default", rope_theta=2e4))])),
    "gpt_neox": (dict(BLOCKS, intermediate_size=96),
                 dict(use_parallel_residual=[False], attention_bias=[False], tie_word_embeddings=[True], layer_norm_eps=[1e-3], hidden_act=["gelu_new", "relu"],
                      rotary_pct=[1.0, 0.5], rotary_emb_base=[500], rope_parameters=[dict(ROPES[0], partial_rotary_factor=0.25)])),
    "falcon": (BLOCKS, dict(new_decoder_architecture=[True], multi_query=[False], parallel_attn=[False], bias=[True], alibi=[True],
                            tie_word_embeddings=[False], ffn_hidden_size=[80], activation=["gelu_new", "relu"], num_kv_heads=[2],
                            layer_norm_epsilon=[1e-3], rope_parameters=ROPES[:1])),
    "falcon-40b": (dict(BLOCKS, new_decoder_architecture=True, num_kv_heads=2), dict(num_ln_in_parallel_attn=[1, 2], num_kv_heads=[4, 1], bias=[True])),
    "bloom": (dict(vocab_size=VOCAB, hidden_size=64, n_layer=3, n_head=4),
              dict(n_head=[2, 8], layer_norm_epsilon=[1e-3], apply_residual_connection_post_layernorm=[True], slow_but_exact=[True],
                   tie_word_embeddings=[False], pretraining_tp=[2])),
    "bloom-6": (dict(vocab_size=VOCAB, hidden_size=60, n_layer=2, n_head=6), {}),
    "mpt": (dict(vocab_size=VOCAB, d_model=64, n_layers=3, n_heads=4, max_seq_len=64),
            dict(n_heads=[2], layer_norm_epsilon=[1e-3], expansion_ratio=[2], no_bias=[False], learned_pos_emb=[False], logit_scale=[2.0],
                 attn_config=[dict(softmax_scale=0.3), dict(clip_qkv=0.5), dict(alibi=False), dict(qk_ln=True), dict(prefix_lm=True), dict(alibi_bias_max=4)])),
    "deepseek_v2": (LATENT, dict(q_lora_rank=[None], topk_method=["group_limited_greedy"], norm_topk_prob=[True], routed_scaling_factor=[2.0],
                                 n_shared_experts=[2], first_k_dense_replace=[0, 2], attention_bias=[True], mlp_bias=[True], rms_norm_eps=[1e-3],
                                 rope_parameters=[ROPES[3], YARN_OF_DEEPSEEK], num_key_value_heads=[2])),
    "deepseek_v2-groups": (dict(LATENT, topk_method="group_limited_greedy", n_group=4, topk_group=2), dict(n_group=[2], topk_group=[3])),
    "deepseek_v3": (dict(LATENT, n_group=4, topk_group=2), dict(q_lora_rank=[None], n_group=[1, 2], norm_topk_prob=[False],
                         routed_scaling_factor=[1.0], rope_interleave=[False], rms_norm_eps=[1e-3], attention_bias=[True],
                         rope_parameters=[YARN_OF_DEEPSEEK], num_nextn_predict_layers=[1])),
}


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in list(model.named_parameters()) + [b for b in model.named_buffers() if "correction_bias" in b[0]]:
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1 and "norm" in name or ".ln_" in name and name.endswith("weight"):
                tensor.add_(0.2 * noise)
            else:
                tensor.copy_(0.15 * noise)
    return model.eval()


def write(model, folder, tokens=PROMPT, **how):
    os.makedirs(folder, exist_ok=True)
    model.eval().save_pretrained(folder, **how)
    tokens = [i * 31 % VOCAB for i in range(tokens)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits.flatten().tolist()
        greedy = list(tokens)
        for _ in range(WRITTEN):
            greedy.append(int(model(torch.tensor([greedy]), use_cache=False).logits[0, -1].argmax()))
    for name, value in (("tokens", tokens), ("logits", logits), ("greedy", greedy[PROMPT:])):
        json.dump(value, open(f"{folder}/{name}.json", "w"))


def in_bf16(model, folder):
    tokens = json.load(open(f"{folder}/tokens.json"))
    with torch.no_grad():
        logits = model.to(torch.bfloat16)(torch.tensor([tokens])).logits.float()
    json.dump(logits.flatten().tolist(), open(f"{folder}/logits-bf16.json", "w"))


def train(folder):
    said = json.load(open(f"{folder}/batches.json"))
    # In f64: at this rate PyTorch's own losses in f32 are as far as 4e-3 from these.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    groups = [dict(params=[p for p in model.parameters() if (p.dim() > 1) == decays], weight_decay=said["weight_decay"] if decays else 0.0)
              for decays in (True, False)]
    optimiser = torch.optim.AdamW(groups, lr=said["lr"], betas=tuple(said["betas"]), eps=said["eps"])
    losses = []
    for batch in said["batches"]:
        tokens = torch.tensor(batch)
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), said["clip"])
        optimiser.step()
    json.dump(losses, open(f"{folder}/losses.json", "w"))


def lm_eval(folder):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    tasks = json.load(open(f"{folder}/tasks.json"))
    results = simple_evaluate(model=HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1), tasks=tasks, log_samples=True, bootstrap_iters=0)
    samples = {name: [dict(responses=one["filtered_resps"], **{m: one[m] for m in one["metrics"]}) for one in all] for name, all in results["samples"].items()}
    json.dump(dict(results=results["results"], samples=samples), open(f"{folder}/lm-eval.json", "w"), default=str)


def make(out):
    for name, (usual, keys) in LAYOUTS.items():
        kind = name.split("-")[0]
        changes = [(None, None)] + [(key, value) for key, values in keys.items() for value in values]
        for number, (key, value) in enumerate(changes):
            folder = f"{out}/{name}/{number:02}-{key or 'usual'}"
            if os.path.exists(f"{folder}/changed.json"):
                continue
            try:
                settings = dict(usual) if key is None else dict(usual) | {key: value}
                config = CONFIG_MAPPING[kind](**settings)
                config._attn_implementation = "eager"
                model = randomise(AutoModelForCausalLM.from_config(config), number)
                write(model, folder)
                if key is None:
                    in_bf16(model, folder)
            except Exception as error:
                print(f"{folder}: transformers itself refuses it: {str(error).splitlines()[0][:120]}")
                continue
            json.dump({"key": key, "value": value}, open(f"{folder}/changed.json", "w"))
    # Ways in which weights lie.
    model = randomise(AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**LLAMA)), 1)
    write(model, f"{out}/files/shards", max_shard_size="40KB")
    torch.save(model.state_dict(), f"{out}/files/shards/pytorch_model.bin")
    model.to(torch.bfloat16).save_pretrained(f"{out}/files/bf16")
    write(AutoModelForCausalLM.from_pretrained(f"{out}/files/bf16", dtype=torch.float32).eval(), f"{out}/files/bf16-said")
    half = randomise(AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt2"](**GPT2)), 2).to(torch.float16)
    half.save_pretrained(f"{out}/files/pickle")
    torch.save(half.state_dict(), f"{out}/files/pickle/pytorch_model.bin")
    os.remove(f"{out}/files/pickle/model.safetensors")
    write(half.float(), f"{out}/files/pickle-said")
    # A LoRA (arXiv:2106.09685) merged by PEFT.
    from peft import LoraConfig, get_peft_model
    model = randomise(AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**LLAMA)), 3)
    with_lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, tensor in with_lora.named_parameters():
            if "lora_" in name:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    write(with_lora.merge_and_unload(), f"{out}/files/lora")
    # To go on training from: GPT-2 as it is, and a Llama of 45M.
    write(AutoModelForCausalLM.from_config(CONFIG_MAPPING["gpt2"]()), f"{out}/train/gpt2", tokens=32)
    llama = dict(vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
                 max_position_embeddings=256)
    write(AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**llama)), f"{out}/train/llama", tokens=32)


def check(folders):
    failed = 0
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokens, logits = (json.load(open(f"{folder}/{name}.json")) for name in ("tokens", "logits"))
        with torch.no_grad():
            theirs = model(torch.tensor([tokens])).logits.flatten()
        ours = torch.tensor(logits)
        worst = ((theirs - ours).abs().max() / max(1.0, ours.abs().max())).item()
        failed += not worst < 1e-3
        print(f"{folder} {type(model).__name__}: logits within {worst:.1e}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    dict(make=lambda: make(sys.argv[2]), check=lambda: check(sys.argv[2:]), train=lambda: train(sys.argv[2]), **{"lm-eval": lambda: lm_eval(sys.argv[2])})[sys.argv[1]]()
