"""Golden values for crates/models/tests/golden.rs: tiny random models of transformers' own classes, in f32.

Each file holds weights under hairpin's names (matrices [out, in]), a batch, logits, the mean loss, every gradient, and
ten AdamW steps (losses and, of dense models, final weights). Of mixtures the gradients and steps count the loss that balances
experts in: transformers' own, of each layer by itself, over the choices of a token. Run with `cargo xtask fixtures`.
"""
import torch
from safetensors.torch import save_file
from transformers import (DeepseekV3Config, DeepseekV3ForCausalLM, FalconConfig, FalconForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, Qwen3Config, Qwen3ForCausalLM)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

OUT = "crates/models/fixtures"
VOCAB, MODEL, HEADS, LAYERS, CONTEXT, BATCH, SEQ, EXPERTS, TOP_K = 31, 16, 4, 2, 16, 2, 9, 5, 2


def llama_names(i, qk_norm=False):
    t, o = f"model.layers.{i}.", f"layers.{i}."
    pairs = {"self_attn.q_proj": "attn.q", "self_attn.k_proj": "attn.k", "self_attn.v_proj": "attn.v", "self_attn.o_proj": "attn.out",
             "mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down",
             "input_layernorm": "attn.norm", "post_attention_layernorm": "mlp.norm"}
    if qk_norm:
        pairs |= {"self_attn.q_norm": "attn.q_norm", "self_attn.k_norm": "attn.k_norm"}
    return {t + a + ".weight": lambda x, b=b: {o + b + ".weight": x} for a, b in pairs.items()}


def gpt2_map():
    one = lambda name: lambda x: {name: x}
    turned = lambda name: lambda x: {name: x.t()}
    def qkv(i, end):
        def split(x):
            x = x.t() if x.dim() == 2 else x
            return {f"layers.{i}.attn.{n}.{end}": p for n, p in zip("qkv", x.chunk(3, 0))}
        return split
    m = {"transformer.wte.weight": one("embed.weight"), "transformer.wpe.weight": one("positions.weight"),
         "transformer.ln_f.weight": one("norm.weight"), "transformer.ln_f.bias": one("norm.bias")}
    for i in range(LAYERS):
        t, o = f"transformer.h.{i}.", f"layers.{i}."
        for end in ("weight", "bias"):
            m |= {t + f"ln_1.{end}": one(o + f"attn.norm.{end}"), t + f"ln_2.{end}": one(o + f"mlp.norm.{end}"),
                  t + f"attn.c_attn.{end}": qkv(i, end)}
        for a, b in {"attn.c_proj": "attn.out", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}.items():
            m |= {t + a + ".weight": turned(o + b + ".weight"), t + a + ".bias": one(o + b + ".bias")}
    return m


def llama_map(qk_norm=False):
    m = {"model.embed_tokens.weight": lambda x: {"embed.weight": x}, "model.norm.weight": lambda x: {"norm.weight": x},
         "lm_head.weight": lambda x: {"head.weight": x}}
    for i in range(LAYERS):
        m |= llama_names(i, qk_norm)
    return m


def mixture_layer(i):
    t, o = f"model.layers.{i}.mlp.", f"layers.{i}.mlp."
    def gate_up(x):
        return {o + f"experts.{n}.weight": p for n, p in zip(("gate", "up"), x.chunk(2, 1))}
    return {t + "gate.weight": lambda x: {o + "router.weight": x}, t + "experts.gate_up_proj": gate_up,
            t + "experts.down_proj": lambda x: {o + "experts.down.weight": x}}


def mixture_map(qk_norm=False):
    m = llama_map(qk_norm)
    for i in range(LAYERS):
        m |= mixture_layer(i)
    return m


def deepseek_map(plain, rope, value, kv_rank):
    # Theirs turns neighbours, ours the first half against the second.
    halves = torch.cat([torch.arange(0, rope, 2), torch.arange(1, rope, 2)])
    m = llama_map()
    for i in range(LAYERS):
        t, o = f"model.layers.{i}.self_attn.", f"layers.{i}.attn."
        def q(x, o=o):
            x = x.view(HEADS, plain + rope, -1)
            return {o + "q.weight": x[:, :plain].flatten(0, 1), o + "q_rope.weight": x[:, plain:][:, halves].flatten(0, 1)}
        def kv(x, o=o):
            x = x.view(HEADS, plain + value, -1)
            return {o + "k.weight": x[:, :plain].flatten(0, 1), o + "v.weight": x[:, plain:].flatten(0, 1)}
        def down(x, o=o):
            return {o + "kv_down.weight": x[:kv_rank], o + "k_rope.weight": x[kv_rank:][halves]}
        one = lambda name, o=o: lambda x: {o + name + ".weight": x}
        m |= {t + "q_a_proj.weight": one("q_down"), t + "q_a_layernorm.weight": one("q_norm"), t + "q_b_proj.weight": q,
              t + "kv_a_proj_with_mqa.weight": down, t + "kv_a_layernorm.weight": one("kv_norm"), t + "kv_b_proj.weight": kv}
        t, o = f"model.layers.{i}.mlp.", f"layers.{i}.mlp."
        m |= mixture_layer(i)
        m |= {t + f"shared_experts.{n}_proj.weight": (lambda x, n=n, o=o: {o + f"shared.{n}.weight": x}) for n in ("gate", "up", "down")}
    return m


def falcon_map(kv_heads):
    one = lambda name: lambda x: {name: x}
    m = {"transformer.word_embeddings.weight": one("embed.weight"), "transformer.ln_f.weight": one("norm.weight"),
         "transformer.ln_f.bias": one("norm.bias")}
    d = MODEL // HEADS
    for i in range(LAYERS):
        t, o = f"transformer.h.{i}.", f"layers.{i}."
        def qkv(x, o=o):
            # Per group: its queries, then one key and one value head.
            x = x.view(kv_heads, HEADS // kv_heads + 2, d, MODEL)
            q, k, v = x[:, :-2], x[:, -2], x[:, -1]
            return {o + f"attn.{n}.weight": p.reshape(-1, MODEL) for n, p in zip("qkv", (q, k, v))}
        m |= {t + "self_attention.query_key_value.weight": qkv, t + "self_attention.dense.weight": one(o + "attn.out.weight"),
              t + "mlp.dense_h_to_4h.weight": one(o + "mlp.up.weight"), t + "mlp.dense_4h_to_h.weight": one(o + "mlp.down.weight")}
        for end in ("weight", "bias"):
            m |= {t + f"ln_attn.{end}": one(o + f"attn.norm.{end}"), t + f"ln_mlp.{end}": one(o + f"mlp.norm.{end}")}
    return m


def rename(named, mapping, prefix=""):
    out = {}
    for name, x in named:
        for ours, part in mapping[name](x.detach()).items():
            out[prefix + ours] = part.clone().contiguous()
    return out


def fixture(name, model, mapping, balance=None, after=True):
    torch.manual_seed(7)
    model = model.float().train()
    with torch.no_grad():
        for p in model.parameters():
            # Norms away from their start too, so that nothing is tested at 1 and 0 alone.
            p.add_(torch.randn_like(p) * 0.15)
    tokens = torch.randint(0, VOCAB, (BATCH, SEQ + 1))
    x, y = tokens[:, :-1], tokens[:, 1:]
    out = rename(model.named_parameters(), mapping)
    out["tokens"], out["targets"] = x.to(torch.int32).contiguous(), y.to(torch.int32).contiguous()

    routed = []
    if balance:
        for layer in model.model.layers:
            keep = lambda gate, x: routed.append(torch.nn.functional.linear(x[0].reshape(-1, MODEL), gate.weight))
            layer.mlp.gate.register_forward_pre_hook(keep)

    def loss():
        routed.clear()
        logits = model(input_ids=x, use_cache=False).logits
        value = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), y.reshape(-1))
        uneven = sum(load_balancing_loss_func((r,), r.shape[1], TOP_K) / TOP_K for r in routed)
        return logits, value, value + balance * uneven if balance else value

    logits, value, whole = loss()
    whole.backward()
    out["logits"], out["loss"] = logits.detach().contiguous(), value.detach().reshape(1)
    out |= rename(((n, p.grad) for n, p in model.named_parameters()), mapping, "grad/")
    decays = [p for p in model.parameters() if p.dim() > 1]
    spared = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decays, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        _, value, whole = loss()
        whole.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(value.detach())
    out["losses"] = torch.stack(losses)
    if after:
        out |= rename(model.named_parameters(), mapping, "after/")
    save_file(out, f"{OUT}/{name}.safetensors")


eager = {"attn_implementation": "eager"}
fixture("gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=MODEL, n_layer=LAYERS, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **eager)), gpt2_map())
llama = dict(vocab_size=VOCAB, hidden_size=MODEL, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
             num_key_value_heads=2, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, tie_word_embeddings=False, **eager)
fixture("llama", LlamaForCausalLM(LlamaConfig(**llama)), llama_map())
fixture("qwen3", Qwen3ForCausalLM(Qwen3Config(head_dim=6, **llama)), llama_map(True))
fixture("falcon", FalconForCausalLM(FalconConfig(vocab_size=VOCAB, hidden_size=MODEL, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_kv_heads=2, new_decoder_architecture=True, parallel_attn=True, bias=False, alibi=False, hidden_dropout=0.0,
        attention_dropout=0.0, **eager)), falcon_map(2))
mixture = llama | dict(intermediate_size=8, num_experts_per_tok=TOP_K)
fixture("mixtral", MixtralForCausalLM(MixtralConfig(num_local_experts=EXPERTS, rope_theta=1e4, **mixture)), mixture_map(), balance=0.05, after=False)
fixture("olmoe", OlmoeForCausalLM(OlmoeConfig(num_experts=EXPERTS, norm_topk_prob=False, **mixture)), mixture_map(True), balance=0.05, after=False)
latent = dict(q_lora_rank=10, kv_lora_rank=8, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=6)
fixture("deepseek", DeepseekV3ForCausalLM(DeepseekV3Config(moe_intermediate_size=8, n_routed_experts=EXPERTS, n_shared_experts=1,
        first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=2.5, **latent,
        **(mixture | dict(num_key_value_heads=HEADS, intermediate_size=8, rms_norm_eps=1e-6)))), deepseek_map(6, 4, 6, 8), after=False)
