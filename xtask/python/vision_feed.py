"""Images a second that torchvision's usual loader makes of a folder of JPEGs: FOLDER and the number of workers, for `cargo xtask bench vision`.

Decoded by Pillow, a random crop of 224 pixels, a mirror, mean 0 and variance 1. The folder, where it is not there, becomes 256 images of
500 x 375 pixels (as ImageNet's are in the mean) cut out of scikit-learn's two photographs.
"""
import json
import sys
import time
from pathlib import Path

import numpy
import torch
from PIL import Image
from torchvision import datasets, transforms

folder, workers = Path(sys.argv[1]), int(sys.argv[2])
BATCH, EPOCHS = 16, 3


def write():
    from sklearn.datasets import load_sample_images
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    draw = numpy.random.default_rng(0)
    for i in range(256):
        photo = photos[i % 2]
        share = draw.uniform(0.5, 1.0)
        width, height = int(share * 500), int(share * 375)
        left, top = draw.integers(0, photo.width - width), draw.integers(0, photo.height - height)
        image = photo.crop((left, top, left + width, top + height)).resize((500, 375), Image.BICUBIC)
        to = folder / ("temple" if i % 2 == 0 else "flower")
        to.mkdir(parents=True, exist_ok=True)
        image.save(to / f"{i:03}.jpg", quality=90)


if not folder.is_dir():
    write()
torch.set_num_threads(1)
images = datasets.ImageFolder(folder, transforms.Compose([
    transforms.RandomResizedCrop(224, scale=(0.4, 1.0)), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]))
loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=True)
for batch in loader:  # workers have started
    pass
start, count = time.perf_counter(), 0
for _ in range(EPOCHS):
    for batch, _ in loader:
        count += len(batch)
print(json.dumps({"images_per_sec": count / (time.perf_counter() - start), "workers": workers}))
