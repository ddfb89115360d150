"""What transformers and diffusers say of an exported model of images, or of one that they write themselves (`make-KIND`): the last line is a
list of numbers. See crates/vision/tests/peers.rs."""
import json
import sys

import torch
import transformers

folder, kind = sys.argv[1:]
load = lambda name: json.load(open(f"{folder}/{name}.json"))


def model(cls):
    model, info = cls.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()




def shaped(name, *shape):
    """An input with its channels last, as diffusers takes it."""
    return torch.tensor(load(name)).reshape(*shape).permute(0, 3, 1, 2)


def drawn(model):
    """A model whose numbers all say something, those that begin at zero too."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def unet():
    import diffusers
    if kind.startswith("make"):
        drawn(diffusers.UNet2DConditionModel(
            sample_size=4, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=6, norm_num_groups=4)).save_pretrained(folder)
    model, info = diffusers.UNet2DConditionModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    text = torch.tensor(load("text")).reshape(2, 77, 6)
    return model(shaped("latents", 2, 4, 4, 3), torch.tensor([3.0, 700.0]), text).sample.permute(0, 2, 3, 1)


def dit():
    import diffusers
    if kind.startswith("make"):
        drawn(diffusers.DiTTransformer2DModel(
            sample_size=4, patch_size=2, in_channels=2, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
            num_embeds_ada_norm=3)).save_pretrained(folder)
    model, info = diffusers.DiTTransformer2DModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    out = model.eval()(shaped("latents", 2, 4, 4, 2), timestep=torch.tensor([3, 700]), class_labels=torch.tensor([2, 1])).sample
    # Pixels of a patch together, as the model says them.
    return out.permute(0, 2, 3, 1).reshape(2, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5)


def autoencoder():
    """What it says of images, or (`whole`) what it makes of them by the means of their latents."""
    import diffusers
    if kind.startswith("make"):
        own = dict(use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False) if "bare" in kind else {}
        drawn(diffusers.AutoencoderKL(
            sample_size=8, block_out_channels=(4, 8), latent_channels=2, layers_per_block=1, norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **own)).save_pretrained(folder)
    model, info = diffusers.AutoencoderKL.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    said = model.eval().encode(shaped("images", 2, 8, 8, 3)).latent_dist
    out = model.decode(said.mean).sample if kind.endswith("whole") else torch.cat([said.mean, said.logvar], 1)
    return out.permute(0, 2, 3, 1)


def siglip():
    if kind.startswith("make"):
        side = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
        config = transformers.SiglipConfig(text_config=dict(vocab_size=300, max_position_embeddings=7, projection_size=16, **side),
                                           vision_config=dict(image_size=12, patch_size=4, **side))
        drawn(transformers.SiglipModel(config)).save_pretrained(folder)
    return compared(model(transformers.SiglipModel))


def compared(model):
    """What is compared of images and texts, of root mean square one."""
    said = model(input_ids=torch.tensor(load("tokens")).reshape(2, -1), pixel_values=images)
    unit = lambda x: x / x.pow(2).mean(-1, keepdim=True).sqrt()
    return torch.cat([unit(said.image_embeds), unit(said.text_embeds)], 1)


with torch.no_grad():
    images = None if kind.endswith(("unet", "dit")) or "autoencoder" in kind else torch.tensor(load("images")).reshape(2, 12, 12, 3).permute(0, 3, 1, 2)
    if kind.endswith("unet"):
        out = unet()
    elif kind.endswith("dit"):
        out = dit()
    elif "autoencoder" in kind:
        out = autoencoder()
    elif kind == "vit":
        found = model(transformers.ViTForImageClassification)
        assert found.config.id2label[1] == "b", found.config.id2label
        out = found(images).logits
    elif kind == "vit_mae":
        order = torch.tensor(load("order")).reshape(2, -1)
        said = model(transformers.ViTMAEForPreTraining)(images, noise=order).logits
        masked = torch.argsort(order, 1)[:, 4:]
        out = torch.gather(said, 1, masked[:, :, None].expand(-1, -1, said.shape[-1]))
    else:
        out = siglip() if kind.endswith("siglip") else compared(model(transformers.CLIPModel))
print(json.dumps(out.flatten().tolist()))
