"""Golden values for crates/models/tests/vision.rs: tiny models of diffusers' and transformers' own classes, in f32.

Weights and inputs are not stored: both sides make them from a counter (`noise` is engine::check::noise, its seed a hash of the
name). A file holds what the model says, its loss, and of each gradient its length and its product with other noise.
Run with `cargo xtask fixtures`.
"""
import numpy as np
import torch
from safetensors.torch import save_file

OUT = "crates/models/fixtures"
MASK = (1 << 64) - 1


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
    return z ^ (z >> np.uint64(31))


def seed(name):
    hash = 0xcbf29ce484222325
    for byte in name.encode():
        hash = ((hash ^ byte) * 0x100000001b3) & MASK
    return hash


def noise(name, shape):
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        bits = mix(np.uint64(seed(name)) ^ mix(np.arange(1, n + 1, dtype=np.uint64))) >> np.uint64(40)
    return torch.tensor(bits.astype(np.float64) / (1 << 23) - 1.0, dtype=torch.float32).reshape(shape)


def start(name, shape):
    """As `golden_start` of the test: by name and shape alone."""
    x = noise(name, shape)
    if len(shape) > 1:
        return x * (2.0 / float(np.prod(shape[1:])) ** 0.5)
    is_norm = name.endswith(".weight") and name.split(".")[-2].startswith("norm")
    return x * 0.2 + (1.0 if is_norm else 0.0)


class Golden:
    """Parameters under our names: `bind` takes a view of one in our order, as a function of its tensor."""

    def __init__(self):
        self.bound, self.params = [], set()

    def bind(self, name, param, view=lambda x: x):
        self.params.add(param)
        self.bound.append((name, param, view))
        with torch.no_grad():
            at = view(param)
            at.copy_(start(name, (at.shape[0], at.numel() // at.shape[0]) if at.dim() > 1 else at.shape).reshape(at.shape))

    def linear(self, name, module, **kw):
        self.bind(f"{name}.weight", module.weight, **kw)
        if module.bias is not None:
            self.bind(f"{name}.bias", module.bias, **kw)

    def conv(self, name, module):
        self.bind(f"{name}.weight", module.weight, lambda x: x.permute(0, 2, 3, 1))
        if module.bias is not None:
            self.bind(f"{name}.bias", module.bias)

    def save(self, file, model, out, loss):
        left = [n for n, p in model.named_parameters() if p not in self.params and p.requires_grad]
        assert not left, f"{file}: not bound: {left}"
        loss.backward()
        arrays = {"out": out.detach().contiguous(), "loss": loss.detach().reshape(1)}
        for name, param, view in self.bound:
            grad = torch.zeros_like(param) if param.grad is None else param.grad
            grad = view(grad).reshape(-1).double()
            arrays[f"grad/{name}"] = torch.stack([grad.norm(), grad @ noise(f"check/{name}", grad.shape).double()]).float()
        save_file(arrays, f"{OUT}/{file}.safetensors")


def unet():
    from diffusers import UNet2DConditionModel
    model = UNet2DConditionModel(sample_size=4, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
                                 down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                 up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=6,
                                 attention_head_dim=(2, 4), norm_num_groups=4, use_linear_projection=True)
    g = Golden()

    def residual(name, m):
        g.linear(f"{name}.norm1", m.norm1), g.conv(f"{name}.conv1", m.conv1), g.linear(f"{name}.time", m.time_emb_proj)
        g.linear(f"{name}.norm2", m.norm2), g.conv(f"{name}.conv2", m.conv2)
        if m.conv_shortcut is not None:
            g.conv(f"{name}.past", m.conv_shortcut)

    def attention(name, m):
        for ours, part in {"q": m.to_q, "k": m.to_k, "v": m.to_v, "out": m.to_out[0]}.items():
            g.linear(f"{name}.{ours}", part)

    def spatial(name, m):
        g.linear(f"{name}.norm", m.norm), g.linear(f"{name}.in", m.proj_in), g.linear(f"{name}.out", m.proj_out)
        for i, layer in enumerate(m.transformer_blocks):
            at = f"{name}.layers.{i}"
            for n in (1, 2, 3):
                g.linear(f"{at}.norm{n}", getattr(layer, f"norm{n}"))
            attention(f"{at}.pixels", layer.attn1), attention(f"{at}.text", layer.attn2)
            both, half = layer.ff.net[0].proj, layer.ff.net[0].proj.weight.shape[0] // 2
            g.linear(f"{at}.ffn.up", both, view=lambda x: x[:half]), g.linear(f"{at}.ffn.gate", both, view=lambda x: x[half:])
            g.linear(f"{at}.ffn.down", layer.ff.net[2])

    g.linear("time.in", model.time_embedding.linear_1), g.linear("time.out", model.time_embedding.linear_2)
    g.conv("in", model.conv_in), g.linear("norm", model.conv_norm_out), g.conv("out", model.conv_out)
    at = 0
    for block in model.down_blocks:
        for i, m in enumerate(block.resnets):
            residual(f"down.{at}.res", m)
            if hasattr(block, "attentions"):
                spatial(f"down.{at}.attn", block.attentions[i])
            at += 1
        for m in block.downsamplers or []:
            g.conv(f"down.{at}.halve", m.conv)
            at += 1
    residual("middle.res1", model.mid_block.resnets[0]), residual("middle.res2", model.mid_block.resnets[1])
    spatial("middle.attn", model.mid_block.attentions[0])
    at = 0
    for block in model.up_blocks:
        for i, m in enumerate(block.resnets):
            residual(f"up.{at}.res", m)
            if hasattr(block, "attentions"):
                spatial(f"up.{at}.attn", block.attentions[i])
            at += 1
        for m in block.upsamplers or []:
            g.conv(f"up.{at - 1}.double", m.conv)
    latents, target = noise("latents", (2, 4, 4, 3)), noise("target", (2, 4, 4, 3))
    timesteps = torch.tensor([3.0, 700.0])
    out = model(latents.permute(0, 3, 1, 2), timesteps, encoder_hidden_states=noise("text", (2, 5, 6))).sample.permute(0, 2, 3, 1)
    g.save("unet", model, out, torch.nn.functional.mse_loss(out, target))


if __name__ == "__main__":
    unet()
