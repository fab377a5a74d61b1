"""Pack the trained stages as an ordinary diffusers folder (fp16 safetensors), plus the CLIP.

``StableDiffusionPipeline.from_pretrained(folder)`` loads the result; ``folder/clip`` holds the
whole CLIP for evaluation. The folder is built beside its place and renamed at the end.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer

from cones.errors import BackboneError
from cones.mini import autoencoder, clip, denoiser
from cones.mini.card import STAGES, card
from cones.mini.sprites import SIZE
from cones.mini.training import Recipe, Run, averaged

ATTRIBUTION = "ATTRIBUTION.csv"
LOGS = "training.json"  # recipe, updates and losses of each stage
EVERY = 20  # of these losses are packed


def _decoder(vae, work: Path) -> None:
    """Take over the sharpened decoder where stage 4 has run."""
    if not (work / "decoder" / "state.safetensors").exists():
        return
    averaged(autoencoder.decoder_of(vae), autoencoder.DECODER, work / "decoder")


def _text_encoder(whole) -> CLIPTextModel:
    """Lift the text tower out of the CLIP."""
    encoder = CLIPTextModel(whole.config.text_config)
    encoder.load_state_dict(
        {n.removeprefix("text_model."): w for n, w in whole.text_model.state_dict().items()}
    )
    return encoder


def pipeline_of(work: Path, tokenizer) -> tuple[StableDiffusionPipeline, torch.nn.Module]:
    """Assemble the pipeline from a work folder's checkpoints (averaged weights), and the CLIP."""
    whole = averaged(clip.build(tokenizer), clip.RECIPE, work / "clip")
    vae = averaged(autoencoder.build(), autoencoder.RECIPE, work / "autoencoder")
    _decoder(vae, work)
    spread = json.loads((work / "latents.json").read_text())["scaling_factor"]
    vae.register_to_config(scaling_factor=spread)
    unet = averaged(denoiser.build(), denoiser.RECIPE, work / "denoiser")
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=_text_encoder(whole).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler.from_config(denoiser.scheduler().config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, whole


def pack(work: Path, tokenizer, out: Path) -> None:
    """Write the model folder.

    Args:
        work: The pretraining folder with a checkpoint of every stage.
        tokenizer: The tokenizer the stages were trained with.
        out: Where the model goes; an older one there is replaced at the end.
    """
    pipeline, whole = pipeline_of(work, tokenizer)
    fresh = out.with_name(out.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(fresh)
    whole.half().save_pretrained(fresh / "clip")
    tokenizer.save_pretrained(fresh / "clip")
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size=SIZE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(fresh / "clip")
    if (out / ATTRIBUTION).exists():
        shutil.copy(out / ATTRIBUTION, fresh / ATTRIBUTION)
    (fresh / "README.md").write_text(card(work, fresh))
    logs = {stage: log for stage in STAGES if (log := _log(work, stage))}
    (fresh / LOGS).write_text(json.dumps(logs))
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def _log(work: Path, stage: str) -> dict:
    path = work / stage / "log.json"
    if not path.exists():
        return {}
    log = json.loads(path.read_text())
    return log | {"losses": log["losses"][::EVERY]}


TABLE = "text_model.embeddings.token_embedding.weight"


def retold(whole: CLIPModel, known: CLIPTokenizer, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Give a CLIP the words of another tokenizer; those it knew keep their vectors."""
    found = clip.build(tokenizer)
    state = whole.state_dict()
    rows, numbers = found.state_dict()[TABLE].clone(), known.get_vocab()
    for piece, number in tokenizer.get_vocab().items():
        if piece in numbers:
            rows[number] = state[TABLE][numbers[piece]]
    found.load_state_dict(state | {TABLE: rows})
    return found


def expect_new(work: Path) -> None:
    """Refuse a work folder that training has begun in.

    Raises:
        BackboneError: ``work`` already holds checkpoints.
    """
    if any((work / stage).exists() for stage in STAGES):
        raise BackboneError(
            f"found checkpoints in {work}, expected a new folder; leave out --start to go on "
            "from them, or give another --work"
        )


def unpack(folder: Path, work: Path, tokenizer: CLIPTokenizer) -> None:
    """Turn a packed model back into checkpoints that training can go on from.

    Weights are those of the pack (averaged, rounded to fp16); the optimiser starts afresh, so
    this continues a training but does not repeat it bit for bit. Of its losses, of which every
    twentieth was packed, each stands for twenty.

    Args:
        folder: The packed model.
        work: The pretraining folder.
        tokenizer: That of the training to come; it may know more words.

    Raises:
        BackboneError: ``work`` already holds checkpoints. Nothing has been changed.
    """
    expect_new(work)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    logs = json.loads((folder / LOGS).read_text())
    whole = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32)
    modules = {
        "clip": retold(whole, pipeline.tokenizer, tokenizer),
        "autoencoder": pipeline.vae,
        "denoiser": pipeline.unet,
    }
    for stage, module in modules.items():
        recipe = Recipe(**logs[stage]["recipe"])
        run = Run(module, recipe, work / stage)
        run.step, run.samples = logs[stage]["step"], logs[stage]["samples"]
        run.losses = [loss for loss in logs[stage]["losses"] for _ in range(EVERY)][: run.step]
        run.save()
    spread = {"scaling_factor": pipeline.vae.config.scaling_factor}
    (work / "latents.json").write_text(json.dumps(spread))
