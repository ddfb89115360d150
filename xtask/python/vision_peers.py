"""What transformers says of an exported model of images: its last line is a list of numbers. See crates/vision/tests/peers.rs."""
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


with torch.no_grad():
    images = torch.tensor(load("images")).reshape(2, 12, 12, 3).permute(0, 3, 1, 2)
    if kind == "vit":
        found = model(transformers.ViTForImageClassification)
        assert found.config.id2label[1] == "b", found.config.id2label
        out = found(images).logits
    elif kind == "vit_mae":
        order = torch.tensor(load("order")).reshape(2, -1)
        said = model(transformers.ViTMAEForPreTraining)(images, noise=order).logits
        masked = torch.argsort(order, 1)[:, 4:]
        out = torch.gather(said, 1, masked[:, :, None].expand(-1, -1, said.shape[-1]))
    else:
        said = model(transformers.CLIPModel)(input_ids=torch.tensor(load("tokens")).reshape(2, -1), pixel_values=images)
        unit = lambda x: x / x.pow(2).mean(-1, keepdim=True).sqrt()
        out = torch.cat([unit(said.image_embeds), unit(said.text_embeds)], 1)
print(json.dumps(out.flatten().tolist()))
