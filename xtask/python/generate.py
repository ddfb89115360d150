"""Tokens per second of transformers' greedy generation with a GPT-2 124M of random weights, batch 1: MODE is f32 or bf16."""
import json
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[1]]
model = GPT2LMHeadModel(GPT2Config(n_positions=256)).to(dtype).eval()
prompt = torch.tensor([[50256, 22184, 1388]])


def secs(tokens):
    start = time.perf_counter()
    model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=50256)
    return time.perf_counter() - start


secs(4)
few, many = secs(10), secs(70)
print(json.dumps({"tokens_per_sec": 60 / (many - few)}))
