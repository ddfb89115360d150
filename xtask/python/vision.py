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


def layers(g, prefix, modules, names):
    """Pre-norm layers of transformers: `names` gives the parts of one."""
    for i, m in enumerate(modules):
        for ours, part in names(m).items():
            g.linear(f"{prefix}layers.{i}.{ours}", part)


def vit_names(m):
    at = m.attention
    return {"attn.norm": m.layernorm_before, "attn.q": at.q_proj, "attn.k": at.k_proj, "attn.v": at.v_proj, "attn.out": at.o_proj,
            "mlp.norm": m.layernorm_after, "mlp.up": m.mlp.fc1, "mlp.down": m.mlp.fc2}


def patch(g, name, conv):
    g.bind(f"{name}.weight", conv.weight, lambda x: x.permute(0, 2, 3, 1))
    if conv.bias is not None:
        g.bind(f"{name}.bias", conv.bias)


def vit():
    from transformers import ViTConfig, ViTForImageClassification
    model = ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
            image_size=8, patch_size=4, num_labels=5, layer_norm_eps=1e-6, attn_implementation="eager")).eval()
    g, m = Golden(), model.vit
    patch(g, "patch", m.embeddings.patch_embeddings.projection)
    g.bind("class", m.embeddings.cls_token, lambda x: x[0]), g.bind("positions", m.embeddings.position_embeddings, lambda x: x[0])
    layers(g, "", m.layers, vit_names)
    g.linear("norm", m.layernorm), g.linear("head", model.classifier)
    out = model(noise("images", (2, 8, 8, 3)).permute(0, 3, 1, 2)).logits
    g.save("vit", model, out, torch.nn.functional.cross_entropy(out, torch.tensor([3, 1])))


def mae():
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding
    model = ViTMAEForPreTraining(ViTMAEConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
            image_size=8, patch_size=2, layer_norm_eps=1e-6, decoder_hidden_size=4, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
            decoder_intermediate_size=16, mask_ratio=0.75, norm_pix_loss=True, attn_implementation="eager")).eval()
    g, m, d = Golden(), model.vit, model.decoder
    # Built without a checkpoint the class leaves its fixed positions at zero; this is what its own start would write.
    for at in (m.embeddings.position_embeddings, d.decoder_pos_embed):
        line, column = build_2d_sinusoidal_position_embedding(4, 4, at.shape[-1], cls_token=True).chunk(2, -1)
        at.data.copy_(torch.cat([column, line], -1)[None])
    patch(g, "patch", m.embeddings.patch_embeddings.projection)
    g.bind("class", m.embeddings.cls_token, lambda x: x[0])
    layers(g, "", m.layers, vit_names), g.linear("norm", m.layernorm)
    g.linear("decoder.in", d.decoder_embed), g.bind("decoder.mask", d.mask_token, lambda x: x[0])
    layers(g, "decoder.", d.decoder_layers, vit_names)
    g.linear("decoder.norm", d.decoder_norm), g.linear("decoder.out", d.decoder_pred)
    order = noise("order", (2, 16))
    said = model(noise("images", (2, 8, 8, 3)).permute(0, 3, 1, 2), noise=order)
    masked = torch.argsort(order, 1)[:, 4:]
    out = torch.gather(said.logits, 1, masked[:, :, None].expand(-1, -1, 12))
    g.save("vit_mae", model, out, said.loss)


def clip_names(m):
    at = m.self_attn
    return {"attn.norm": m.layer_norm1, "attn.q": at.q_proj, "attn.k": at.k_proj, "attn.v": at.v_proj, "attn.out": at.out_proj,
            "mlp.norm": m.layer_norm2, "mlp.up": m.mlp.fc1, "mlp.down": m.mlp.fc2}


def clip():
    from transformers import CLIPConfig, CLIPModel
    side = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, hidden_act="quick_gelu")
    config = CLIPConfig(text_config=dict(vocab_size=11, max_position_embeddings=6, eos_token_id=10, bos_token_id=0, pad_token_id=10, **side),
                        vision_config=dict(image_size=8, patch_size=4, **side), projection_dim=6)
    config._attn_implementation = "eager"
    model = CLIPModel(config).eval()
    g, t, v = Golden(), model.text_model, model.vision_model
    patch(g, "image.patch", v.embeddings.patch_embedding)
    g.bind("image.class", v.embeddings.class_embedding, lambda x: x[None])
    g.bind("image.positions", v.embeddings.position_embedding.weight)
    g.linear("image.norm_first", v.pre_layrnorm), g.linear("image.norm", v.post_layernorm), g.linear("image.head", model.visual_projection)
    layers(g, "image.", v.encoder.layers, clip_names)
    g.bind("text.embed", t.embeddings.token_embedding.weight), g.bind("text.positions", t.embeddings.position_embedding.weight)
    layers(g, "text.", t.encoder.layers, clip_names)
    g.linear("text.norm", t.final_layer_norm), g.linear("text.head", model.text_projection)
    g.bind("temperature", model.logit_scale, lambda x: x[None])
    tokens = torch.tensor([[0, 3, 4, 10, 10, 10], [0, 7, 10, 10, 10, 10], [0, 1, 2, 5, 6, 10]])
    said = model(input_ids=tokens, pixel_values=noise("images", (3, 8, 8, 3)).permute(0, 3, 1, 2), return_loss=True)
    unit = lambda x: x / x.pow(2).mean(-1, keepdim=True).sqrt()
    g.save("clip", model, torch.cat([unit(said.image_embeds), unit(said.text_embeds)], 1), said.loss)


class Dit(torch.nn.Module):
    """arXiv:2212.09748 restated, for the class is in no library in this form: adaLN-zero blocks over patches of latents."""

    def __init__(self, size=4, patch=2, channels=2, width=8, heads=2, layers=2, classes=4, waves=6):
        super().__init__()
        linear = torch.nn.Linear
        self.size, self.side, self.width, self.heads, self.waves = size, patch, width, heads, waves
        self.time = torch.nn.ModuleList([linear(waves, width), linear(width, width)])
        self.classes, self.patch = torch.nn.Embedding(classes, width), linear(patch * patch * channels, width)
        block = lambda: torch.nn.ModuleDict({"told": linear(width, 6 * width), **{n: linear(width, width) for n in ("q", "k", "v", "out")},
                                             "up": linear(width, 4 * width), "down": linear(4 * width, width)})
        self.blocks = torch.nn.ModuleList([block() for _ in range(layers)])
        self.last_told, self.last = linear(width, 2 * width), linear(width, patch * patch * 2 * channels)

    def positions(self):
        n, quarter = self.size // self.side, self.width // 4
        line, column = (x.reshape(-1, 1) / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
                        for x in torch.meshgrid(*[torch.arange(n, dtype=torch.float64)] * 2, indexing="ij"))
        return torch.cat([column.sin(), column.cos(), line.sin(), line.cos()], 1).float()

    def patches(self, x):
        n, s, p = x.shape[0], self.size // self.side, self.side
        return x.reshape(n, s, p, s, p, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, s * s, -1)

    def forward(self, latents, timesteps, classes):
        silu, norm = torch.nn.functional.silu, lambda x: torch.nn.functional.layer_norm(x, (self.width,), eps=1e-6)
        half = self.waves // 2
        angles = timesteps[:, None] * torch.exp(-np.log(10000) * torch.arange(half) / half)
        told = silu(self.time[1](silu(self.time[0](torch.cat([angles.cos(), angles.sin()], 1)))) + self.classes(classes))
        x = self.patch(self.patches(latents)) + self.positions()
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1).transpose(1, 2)
        modulated = lambda x, shift, scale: norm(x) * (1 + scale[:, None]) + shift[:, None]
        for b in self.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = b["told"](told).chunk(6, 1)
            y = modulated(x, shift1, scale1)
            y = torch.nn.functional.scaled_dot_product_attention(*(split(b[n](y)) for n in "qkv"))
            x = x + gate1[:, None] * b["out"](y.transpose(1, 2).reshape(x.shape))
            y = torch.nn.functional.gelu(b["up"](modulated(x, shift2, scale2)), approximate="tanh")
            x = x + gate2[:, None] * b["down"](y)
        return self.last(modulated(x, *self.last_told(told).chunk(2, 1)))


def dit():
    model, g = Dit(), Golden()
    g.linear("time.in", model.time[0]), g.linear("time.out", model.time[1]), g.bind("class", model.classes.weight)
    g.linear("patch", model.patch), g.linear("out.told", model.last_told), g.linear("out", model.last)
    for i, b in enumerate(model.blocks):
        for ours, part in {"told": "told", "attn.q": "q", "attn.k": "k", "attn.v": "v", "attn.out": "out", "mlp.up": "up", "mlp.down": "down"}.items():
            g.linear(f"layers.{i}.{ours}", b[part])
    out = model(noise("latents", (2, 4, 4, 2)), torch.tensor([3.0, 700.0]), torch.tensor([3, 1]))
    target = model.patches(noise("target", (2, 4, 4, 2)))
    # The first channels of each pixel are the noise.
    said = out.reshape(2, 16, 4)[:, :, :2]
    g.save("dit", model, out, torch.nn.functional.mse_loss(said, target.reshape(2, 16, 2)))


def autoencoder():
    """Its loss is the squared error of a draw; its gradient is also that of a quarter of the mean divergence."""
    from diffusers import AutoencoderKL
    model = AutoencoderKL(block_out_channels=(4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                          layers_per_block=2, latent_channels=2, norm_num_groups=2, sample_size=16)
    g = Golden()

    def residual(name, m):
        for i in (1, 2):
            g.linear(f"{name}.norm{i}", getattr(m, f"norm{i}")), g.conv(f"{name}.conv{i}", getattr(m, f"conv{i}"))
        if m.conv_shortcut is not None:
            g.conv(f"{name}.past", m.conv_shortcut)

    def half(name, m, levels, next_ones):
        g.conv(f"{name}.in", m.conv_in), g.linear(f"{name}.norm", m.conv_norm_out), g.conv(f"{name}.out", m.conv_out)
        for level, block in enumerate(levels):
            way = "down" if name == "encoder" else "up"
            for i, m_of in enumerate(block.resnets):
                residual(f"{name}.{way}.{level}.res{i + 1}", m_of)
            for m_of in getattr(block, next_ones) or []:
                g.conv(f"{name}.{way}.{level}." + ("halve" if name == "encoder" else "double"), m_of.conv)
        residual(f"{name}.middle.res1", m.mid_block.resnets[0]), residual(f"{name}.middle.res2", m.mid_block.resnets[1])
        at = m.mid_block.attentions[0]
        g.linear(f"{name}.middle.attn.norm", at.group_norm)
        for ours, part in {"q": at.to_q, "k": at.to_k, "v": at.to_v, "out": at.to_out[0]}.items():
            g.linear(f"{name}.middle.attn.{ours}", part)

    half("encoder", model.encoder, model.encoder.down_blocks, "downsamplers")
    half("decoder", model.decoder, model.decoder.up_blocks, "upsamplers")
    g.conv("encoder.moments", model.quant_conv), g.conv("decoder.latents", model.post_quant_conv)
    images = noise("images", (2, 16, 16, 3)).permute(0, 3, 1, 2)
    said = model.encode(images).latent_dist
    latents = said.mean + said.std * noise("noise", (2, 4, 4, 2)).permute(0, 3, 1, 2)
    divergence = 0.25 * said.kl().mean() / (4 * 4 * 2)
    loss = torch.nn.functional.mse_loss(model.decode(latents).sample, images) + divergence - divergence.detach()
    g.save("autoencoder", model, model.decode(said.mean).sample.permute(0, 2, 3, 1), loss)


if __name__ == "__main__":
    for golden in (unet, vit, mae, clip, dit, autoencoder):
        golden()
