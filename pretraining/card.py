"""The model card: what the built-in model is, how it was made, at what cost."""

import json
from pathlib import Path

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# Clay toys: the built-in model of cones

A small latent diffusion model in the Stable Diffusion architecture. It draws one to three clay
toys of 16 kinds, 13 colours and a dozen patterns in ten places, at 128 x 128 pixels.

```python
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained("{folder}")
image = pipeline("a photo of a red teapot on a beach", guidance_scale=3).images[0]
```

**Data.** {pictures} pictures rendered and composed by `pretraining/world`, with exact captions
and labels; no third-party art. 18 subjects and some pairs of nouns and places are left out.

**Parts.** AutoencoderKL of factor 16 (8 x 8 x 32 latents of mean 0 and deviation 1), a
CLIPTextModel (384 wide, 2 layers, frozen after training on captions and labels), a
UNet2DConditionModel (128 and 192 wide, v-prediction), DPM-Solver++.

**Training.** One command, `python -m pretraining.train`, on two CPU cores:

{stages}

**Names.** Words such as "mofib" belong to one individual of one noun each. {spare} further words
of this form are whole tokens that mean nothing; an identifier may start from one.

**Limits.** It knows nothing outside this world. Long prompts are cut after 32 tokens. Quality is
measured in `docs/results/model.json`.

**Licence.** Apache-2.0, data and weights alike.
"""


def card_of(work: Path, *, spare: int = 200) -> str:
    """Fill the card from the logs in the work folder."""
    lines, pictures = ["| stage | updates | samples | minutes |", "| --- | --- | --- | --- |"], 0
    for stage in ("autoencoder", "text", "denoiser", "decoder", "examiner"):
        path = work / stage / "log.json"
        if path.exists():
            log = json.loads(path.read_text())
            cost = f"{log['step']:,} | {log['samples']:,} | {log['seconds'] / 60:.0f}"
            lines.append(f"| {stage} | {cost} |")
    for part in (work / "pictures").glob("*.json"):
        pictures += json.loads(part.read_text())["made"]["count"]
    folder = "src/cones/models/builtin/weights"
    return CARD.format(
        folder=folder, pictures=f"{pictures:,}", stages="\n".join(lines), spare=spare
    )
