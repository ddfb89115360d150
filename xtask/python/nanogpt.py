"""nanoGPT's recipe in PyTorch on a folder that `hairpin data` made, for `cargo xtask bench learning`: DATA SEED STEPS LR MODE.

GPT-2's architecture (6 layers, width 384, tied head), AdamW (0.9, 0.99; decay 0.1 on matrices), warm-up and cosine to a
tenth, clip 1, batches of random windows. Prints held-out bits per byte on the windows that hairpin measures, and times.
"""
import json
import math
import sys
import time

import numpy
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

folder, seed, steps, lr, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
BATCH, CONTEXT, WINDOWS, WARMUP = 8, 256, 96, 100
torch.manual_seed(seed)
manifest = json.load(open(f"{folder}/manifest.json"))
VOCAB = manifest["vocab"]


def tokens(split):
    """Shards have a header of 64 bytes, then u16 (or u32 above 65,536 tokens)."""
    width = numpy.uint16 if VOCAB <= 1 << 16 else numpy.uint32
    parts = [numpy.fromfile(f"{folder}/{s['file']}", dtype=width, offset=64) for s in manifest[split]["shards"]]
    return torch.from_numpy(numpy.concatenate(parts).astype(numpy.int64))


train, held_out = tokens("train"), tokens("held_out")
model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=384, n_layer=6, n_head=6, resid_pdrop=0.0,
                                   embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None))
matrices = [p for p in model.parameters() if p.dim() >= 2]
vectors = [p for p in model.parameters() if p.dim() < 2]
groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)


def nll(x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode.endswith("bf16")):
        logits = model(input_ids=x, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().view(-1, VOCAB), y.reshape(-1))


loss = torch.compile(nll) if mode.startswith("compile") else nll


def share(step):
    """Of the peak learning rate, at `step` from 1."""
    if step <= WARMUP:
        return step / WARMUP
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


model.train()
start, first = time.perf_counter(), 0.0
for step in range(1, steps + 1):
    for group in optimiser.param_groups:
        group["lr"] = lr * share(step)
    at = torch.randint(len(train) - CONTEXT, (BATCH,))
    x, y = (torch.stack([train[i + shift:i + shift + CONTEXT] for i in at]) for shift in (0, 1))
    optimiser.zero_grad(set_to_none=True)
    loss(x, y).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    if step == 1:
        first = time.perf_counter() - start
secs = time.perf_counter() - start

model.eval()
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
special = set(tokenizer.get_added_tokens_decoder())
# One character of a byte-level token is one byte; an end of text stands for none.
lengths = torch.tensor([0 if i in special else len(tokenizer.id_to_token(i)) for i in range(VOCAB)])
count = (len(held_out) - 1) // CONTEXT
windows = min(WINDOWS, count)
nats, size = 0.0, 0
with torch.no_grad():
    for i in range(windows):
        at = i * count // windows * CONTEXT
        window = held_out[at:at + CONTEXT + 1]
        nats += nll(window[None, :-1], window[None, 1:]).item() * CONTEXT
        size += lengths[window[1:]].sum().item()
print(json.dumps({"bits_per_byte": nats / math.log(2) / size, "secs": secs, "first_step_secs": first,
                  "tokens": steps * BATCH * CONTEXT, "params": sum(p.numel() for p in model.parameters())}))
