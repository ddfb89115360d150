"""One whole training step of the tiny GPT-2 in PyTorch (forward, backward, clip, AdamW), for `cargo xtask bench --peers`."""
import json
import resource
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

mode = sys.argv[1]
VOCAB, CONTEXT, LAYERS, WIDTH, HEADS, BATCH, STEPS = 4096, 256, 6, 384, 6, 8, 5
model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
                                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
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
print(json.dumps({"tokens_per_sec": BATCH * CONTEXT / median, "peak_rss_bytes": peak}))
