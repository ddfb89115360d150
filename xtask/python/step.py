"""One whole training step in PyTorch (forward, backward, clip, AdamW), for `cargo xtask bench --peers`: WORK and MODE.

Of transformers' ways with experts two are taken: a loop over them (eager), and one product over groups of rows (grouped). The third
copies each row's matrices side by side.
"""
import json
import resource
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM

work, mode = sys.argv[1:]


def gpt2(vocab, context, layers, width, heads):
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=context, n_embd=width, n_layer=layers, n_head=heads,
                                      resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None))


def llama(vocab, context, layers, width, heads, kv_heads, ffn):
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, max_position_embeddings=context, hidden_size=width,
                                        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                                        intermediate_size=ffn, tie_word_embeddings=True))


def olmoe(vocab, context, layers, width, heads, experts, per_token, ffn):
    config = OlmoeConfig(vocab_size=vocab, max_position_embeddings=context, hidden_size=width, num_hidden_layers=layers,
                         num_attention_heads=heads, num_key_value_heads=heads, num_experts=experts, num_experts_per_tok=per_token,
                         intermediate_size=ffn, bos_token_id=None, eos_token_id=None, pad_token_id=None,
                         experts_implementation="grouped_mm" if mode.startswith("grouped") else "eager")
    return OlmoeForCausalLM(config)


# The sizes of the recipes of the same names.
model, BATCH, CONTEXT = {
    "tiny": lambda: (gpt2(4096, 256, 6, 384, 6), 8, 256),
    "bench-124m": lambda: (gpt2(50257, 256, 12, 768, 12), 4, 256),
    "bench-llama-110m": lambda: (llama(32000, 1024, 12, 768, 12, 4, 2048), 1, 1024),
    "bench-moe": lambda: (olmoe(4096, 1024, 8, 512, 8, 16, 4, 512), 2, 1024),
    "bench-long": lambda: (llama(4096, 4096, 4, 512, 8, 8, 1408), 1, 4096),
}[work]()
model.train()
VOCAB, STEPS = model.config.vocab_size, 3
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
tokens = torch.randint(0, VOCAB, (BATCH, CONTEXT + 1))
x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def loss():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode.endswith("bf16")):
        logits = model(input_ids=x, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().view(-1, VOCAB), y.view(-1))


if mode.startswith("compile"):
    loss = torch.compile(loss)


def step():
    optimiser.zero_grad(set_to_none=True)
    loss().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


step()
secs = []
for _ in range(STEPS):
    start = time.perf_counter()
    step()
    secs.append(time.perf_counter() - start)
median = sorted(secs)[len(secs) // 2]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"tokens_per_sec": BATCH * CONTEXT / median, "peak_rss_bytes": peak,
                  "params": sum(p.numel() for p in model.parameters())}))
