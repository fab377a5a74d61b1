"""The published layout: names as in known files, and no model that it cannot hold."""

import copy
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from cones.errors import ModelError
from cones.models import Pipeline
from cones.models.checkpoint import published
from experiments.small import FAMILIES
from fakes import WIDTH, tiny_pipeline
from single_file import single_file

ATTENDS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def deep(*, xl: bool) -> UNet2DConditionModel:
    """Build a narrow U-Net with as many blocks and layers as the real one."""
    kinds = (PLAIN, ATTENDS, ATTENDS) if xl else (ATTENDS, ATTENDS, ATTENDS, PLAIN)
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2}
    more |= {"projection_class_embeddings_input_dim": 8, "use_linear_projection": True}
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 16, 16)[: len(kinds)],
        down_block_types=[kind.format("Down") for kind in kinds],
        up_block_types=[kind.format("Up") for kind in reversed(kinds)],
        transformer_layers_per_block=(1, 2, 10) if xl else 1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=2,
        **(more if xl else {}),
    )


@pytest.mark.parametrize(
    ("xl", "count", "there", "absent"),
    [
        (
            False,
            686,
            [
                "input_blocks.3.0.op.weight",
                "input_blocks.11.0.out_layers.3.weight",
                "output_blocks.2.1.conv.weight",
                "output_blocks.8.2.conv.weight",
                "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight",
                "middle_block.1.proj_in.weight",
            ],
            ["input_blocks.10.1.norm.weight", "output_blocks.11.2.conv.weight"],
        ),
        (
            True,
            1680,
            [
                "label_emb.0.2.bias",
                "input_blocks.4.1.transformer_blocks.1.attn1.to_v.weight",
                "middle_block.1.transformer_blocks.9.attn2.to_k.weight",
                "output_blocks.2.2.conv.weight",
                "output_blocks.8.0.skip_connection.weight",
            ],
            ["input_blocks.9.0.op.weight", "output_blocks.8.1.norm.weight"],
        ),
    ],
)
def test_a_u_net_of_the_real_depth_has_the_names_of_the_published_files(
    xl: bool, count: int, there: list[str], absent: list[str]
) -> None:
    """Stable Diffusion 1.5 was published with 686 entries for its U-Net, XL with 1,680."""
    pipeline = tiny_pipeline()
    pipeline.unet = deep(xl=xl)
    start = "model.diffusion_model."
    found = {n.removeprefix(start) for n in published(pipeline) if n.startswith(start)}
    assert len(found) == count
    assert found.issuperset(there)
    assert found.isdisjoint(absent)


@pytest.mark.parametrize("family", ["SD 1.x", "SD 2.x, v-prediction", "SDXL"])
def test_names_and_weights_are_those_of_another_writer(family: str) -> None:
    pipeline = FAMILIES[family]()
    found, written = published(pipeline), single_file(pipeline)
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], weight) for name, weight in written.items())


def test_xl_says_what_it_predicts() -> None:
    """ComfyUI looks for these two entries of XL."""
    pipeline = FAMILIES["SDXL"]()
    assert not {"v_pred", "ztsnr"} & published(pipeline).keys()
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **noise)
    assert {"v_pred", "ztsnr"} < published(pipeline).keys()


def wrong_layers(pipeline: Pipeline) -> None:
    pipeline.unet.register_to_config(layers_per_block=(1, 1))


def more_entries(pipeline: Pipeline) -> None:
    pipeline.unet.time_embedding.cond_proj = torch.nn.Linear(2, 2)


def other_weights(pipeline: Pipeline) -> None:
    state = copy.copy(pipeline.vae.state_dict())
    state["encoder.mid_block.attentions.0.to_q.weight"] = torch.zeros(4, 4, 2, 1)
    pipeline.vae.state_dict = lambda: state


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (wrong_layers, "UNet2DConditionModel"),
        (more_entries, "UNet2DConditionModel"),
        (other_weights, "AutoencoderKL"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(spoil: Callable, part: str) -> None:
    pipeline = tiny_pipeline()
    spoil(pipeline)
    with pytest.raises(ModelError, match=f"found a {part} that the published layout .*export to"):
        published(pipeline)
