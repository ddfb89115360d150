"""One whole training step of a model of images in PyTorch (forward, backward, clip, AdamW), for `cargo xtask bench vision`: WORK and MODE.

The sizes are those of the recipe of that name. Masked autoencoders and CLIP are transformers', the U-Net is diffusers', with its channels
last; the diffusion transformer is built of timm's parts as github.com/facebookresearch/DiT builds it.
"""
import json
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

work, mode = sys.argv[1:]
torch.manual_seed(0)


def mae():
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    model = ViTMAEForPreTraining(ViTMAEConfig(norm_pix_loss=True, attn_implementation="sdpa"))
    images = torch.randn(16, 3, 224, 224)
    return model, 16, lambda: model(pixel_values=images).loss


def clip():
    from transformers import CLIPConfig, CLIPModel
    model = CLIPModel(CLIPConfig(attn_implementation="sdpa"))
    images, tokens = torch.randn(16, 3, 224, 224), torch.randint(0, 49407, (16, 77))
    tokens[:, -1] = 49407
    return model, 16, lambda: model(input_ids=tokens, pixel_values=images, return_loss=True).loss


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        from timm.models.vision_transformer import Attention, Mlp
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(in_features=width, hidden_features=4 * width, act_layer=lambda: nn.GELU(approximate="tanh"), drop=0)
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, told):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.told(told)[:, None].chunk(6, dim=2)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Dit(nn.Module):
    def __init__(self, width=384, layers=12, heads=6, side=32, patch=2, channels=4, classes=1001):
        super().__init__()
        self.patch = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (side // patch) ** 2, width), requires_grad=False)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, patch * patch * 2 * channels)

    def forward(self, latents, times, classes):
        angles = times[:, None] * torch.exp(-9.21034 * torch.arange(128) / 128)
        told = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.label(classes)
        x = self.patch(latents).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x, told)
        shift, scale = self.told(told)[:, None].chunk(2, dim=2)
        said = self.out(self.norm(x) * (1 + scale) + shift)
        batch, tokens, _ = said.shape
        side = int(tokens ** 0.5)
        return said.reshape(batch, side, side, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(batch, 8, 2 * side, 2 * side)


def dit():
    model = Dit()
    latents, noise = torch.randn(2, 16, 4, 32, 32)
    times, classes = torch.randint(0, 1000, (16,)).float(), torch.randint(0, 1000, (16,))
    return model, 16, lambda: F.mse_loss(model(latents, times, classes)[:, :4].float(), noise)


def unet():
    from diffusers import UNet2DConditionModel
    model = UNet2DConditionModel(sample_size=32, block_out_channels=(128, 256, 512, 512), cross_attention_dim=768)
    model = model.to(memory_format=torch.channels_last)
    latents, noise = (x.contiguous(memory_format=torch.channels_last) for x in torch.randn(2, 4, 4, 32, 32))
    times, text = torch.randint(0, 1000, (4,)), torch.randn(4, 77, 768)
    return model, 4, lambda: F.mse_loss(model(latents, times, text).sample.float(), noise)


model, BATCH, head = {"bench-mae-vit-b": mae, "bench-clip-vit-b-32": clip, "bench-dit-s-2": dit, "bench-unet": unet}[work]()
model.train()
STEPS = 3
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


def loss():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode.endswith("bf16")):
        return head()


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
print(json.dumps({"samples_per_sec": BATCH / median, "peak_rss_bytes": peak,
                  "params": sum(p.numel() for p in model.parameters() if p.requires_grad)}))
