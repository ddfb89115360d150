"""Hold a folder that hairpin exported against transformers: logits of `tokens.json` within 1e-3 of `logits.json`."""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokens, logits = (json.load(open(f"{folder}/{name}.json")) for name in ("tokens", "logits"))
with torch.no_grad():
    theirs = model(torch.tensor([tokens])).logits.flatten()
worst = (theirs - torch.tensor(logits)).abs().max().item()
print(f"{type(model).__name__}: logits within {worst:.1e}")
sys.exit(0 if worst < 1e-3 else 1)
