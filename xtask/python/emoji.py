"""The names of emoji beside their images, as a list that hairpin reads: PACKAGE, npm's emoji-datasource-twitter or openmoji unpacked, and FOLDER."""
import json
import shutil
import sys
from pathlib import Path

package, folder = map(Path, sys.argv[1:])
TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}


def twitter():
    for emoji in json.loads((package / "emoji.json").read_text()):
        name = emoji["name"] if emoji["name"] else emoji["short_name"].replace("_", " ")
        yield emoji["image"], name.lower(), emoji["category"]
        for tones, variation in emoji.get("skin_variations", {}).items():
            said = " and ".join(TONES[tone] for tone in tones.split("-"))
            yield variation["image"], f"{name.lower()}, {said} skin tone", emoji["category"]


def openmoji():
    for emoji in json.loads((package / "data" / "openmoji.json").read_text()):
        yield f"{emoji['hexcode']}.svg", emoji["annotation"].lower(), emoji["group"]


images, rows = (package / "img/twitter/64", twitter()) if (package / "emoji.json").exists() else (package / "color/svg", openmoji())
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "captions.jsonl", "w") as out:
    for file, caption, group in rows:
        if (images / file).exists():
            shutil.copy(images / file, folder / file)
            out.write(json.dumps({"file_name": file, "caption": caption, "class": group}) + "\n")
