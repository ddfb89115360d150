"""The figures that crates/vision/src/diffusion.rs is held against: alphas_cumprod of the two schedules by PyTorch's own arithmetic, as
arXiv:2006.11239 and arXiv:2102.09672 (and diffusers' DDPMScheduler, "linear" and "squaredcos_cap_v2") define them.
"""
import math

import torch

steps = 1000
linear = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)
bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
cosine = torch.tensor([min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)], dtype=torch.float64)
for name, betas in (("linear", linear), ("cosine", cosine)):
    kept = torch.cumprod(1 - betas, 0)
    print(name, [f"{kept[i].item():.6g}" for i in (0, 250, 500, 999)])
