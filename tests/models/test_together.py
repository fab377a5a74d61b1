"""A concept beside what people load with it: LoRAs, learnt words, ControlNet, IP-Adapter.

What is drawn inside ``applied()`` is drawn again by a copy whose weights are set to zero by hand.
"""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from peft import LoraConfig

from cones.concept import Concept
from cones.drawing import generate
from cones.models import Pipeline
from cones.models.words import encoders, spoken
from fakes import WIDTH, tiny_concept, tiny_pipeline, tiny_pixels

Draw = Callable[[Pipeline], np.ndarray]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[False, True], ids=["sd", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline(xl=request.param)


def draw(pipeline: Pipeline, prompt: str = "a V* cat", **options: object) -> np.ndarray:
    words = {} if "prompt_embeds" in options else {"prompt": prompt}
    options |= {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 2}
    return pipeline(**words, **options, output_type="np").images[0]


def by_hand(pipeline: Pipeline, concept: Concept, drawn: Draw) -> np.ndarray:
    """Draw with a copy whose weights below any adapter are zero at the mask."""
    twin = copy.deepcopy(pipeline)
    weights = {n.replace(".base_layer", ""): w for n, w in twin.unet.named_parameters()}
    for name, positions in concept.mask.indices.items():
        weights[name].data.view(-1)[positions] = 0
    with spoken(twin, {word.identifier: word.embeddings for word in concept.words}):
        return drawn(twin)


def require_same(pipeline: Pipeline, concept: Concept, drawn: Draw) -> None:
    """Check what is drawn inside the context, and that all is as before after it."""
    state = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    words = [tokenizer.get_vocab() for tokenizer, _ in encoders(pipeline).values()]
    expected = by_hand(pipeline, concept, drawn)
    with concept.applied(pipeline):
        found = drawn(pipeline)
    assert np.array_equal(found, expected)
    with concept.applied(pipeline, strength=0.0):
        assert not np.array_equal(drawn(pipeline), expected)
    assert state.keys() == pipeline.unet.state_dict().keys()
    assert all(torch.equal(state[n], w) for n, w in pipeline.unet.state_dict().items())
    assert words == [tokenizer.get_vocab() for tokenizer, _ in encoders(pipeline).values()]


def add_loras(pipeline: Pipeline, *weights: float, size: float = 1.0) -> None:
    """Load a LoRA for every weight, by the names that peft gives to layers."""
    names = [f"lora{k}" for k in range(len(weights))]
    for name in names:
        layers = ["to_q", "to_k", "to_v"]
        config = LoraConfig(r=2, target_modules=layers, init_lora_weights=False)
        pipeline.unet.add_adapter(config, adapter_name=name)
    pipeline.set_adapters(names, [size * weight for weight in weights])


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("weights", [(1.0,), (0.5, -2.0)])
def test_loras_are_added_to_what_is_shut(pipeline: Pipeline, weights: tuple[float, ...]) -> None:
    concept = tiny_concept(pipeline)
    add_loras(pipeline, *weights)
    require_same(pipeline, concept, draw)
    pipeline.set_adapters("lora0", 0.0)
    with concept.applied(pipeline):
        found = draw(pipeline)
    pipeline.unload_lora_weights()
    with concept.applied(pipeline):
        assert np.array_equal(draw(pipeline), found)


@pytest.mark.parametrize("unloaded", [False, True])
@pytest.mark.filterwarnings("ignore:.*is a fine-tune of")
def test_a_lora_that_was_fused_is_shut_with_the_weight(pipeline: Pipeline, unloaded: bool) -> None:
    concept = tiny_concept(pipeline)
    add_loras(pipeline, 0.05)
    plain = draw(pipeline)
    pipeline.fuse_lora()
    if unloaded:
        pipeline.unload_lora_weights()
    require_same(pipeline, concept, draw)
    np.testing.assert_allclose(draw(pipeline), plain, atol=0.02)


def test_learnt_words_of_others_are_heard_as_before() -> None:
    pipeline = tiny_pipeline()
    pipeline.load_textual_inversion({"<two>": torch.randn(2, WIDTH)}, token="<two>")
    pipeline.load_textual_inversion({"<one>": torch.randn(WIDTH)}, token="<one>")
    concept, said = tiny_concept(pipeline), "a cat <two> on <one>"
    before = draw(pipeline, said)
    with concept.applied(pipeline, strength=0.0):
        assert np.array_equal(draw(pipeline, said), before)
    require_same(pipeline, concept, partial(draw, prompt="a V* cat <two> on <one>"))
    picture, other = (
        generate(pipeline, concept, prompt, seeds=[0], num_inference_steps=2)[0].tobytes()
        for prompt in (f"{'a red cat ' * 4} a V* cat <two>", f"{'a red cat ' * 4} a V* cat <one>")
    )
    assert picture != other  # also in the second part of a long prompt


def test_a_controlnet_follows_its_picture() -> None:
    plain = tiny_pipeline()
    net = ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=(8, 8, 8))
    torch.nn.init.constant_(net.controlnet_mid_block.weight, 0.1)  # zero at first
    parts = {**plain.components, "controlnet": net}
    pipeline = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    require_same(pipeline, tiny_concept(pipeline), partial(draw, image=tiny_pixels(1)))


def test_an_ip_adapter_looks_at_its_picture(pipeline: Pipeline) -> None:
    unet, seen, tokens = pipeline.unet, 6, 4
    concept = tiny_concept(pipeline)
    heard = unet.config.cross_attention_dim
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    adapter = {}
    for k, name in enumerate(names):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for leaf in ("to_k_ip", "to_v_ip"):
            adapter[f"{2 * k + 1}.{leaf}.weight"] = torch.randn(width, heard)
    projection = {
        "proj.weight": torch.randn(tokens * heard, seen),
        "proj.bias": torch.zeros(tokens * heard),
    }
    projection |= {"norm.weight": torch.ones(heard), "norm.bias": torch.zeros(heard)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": adapter}])
    pictures = [torch.randn(2, 1, seen)]
    require_same(pipeline, concept, partial(draw, ip_adapter_image_embeds=pictures))


def weighted(pipeline: Pipeline) -> np.ndarray:
    """Weigh the third token, as compel does, and hand over what was encoded."""
    found, against = pipeline.encode_prompt("a V* cat", "cpu", 1, True, negative_prompt="red")
    found[:, 2] *= 1.3
    return draw(pipeline, prompt_embeds=found, negative_prompt_embeds=against)


def test_weighted_words_are_handed_over_as_embeddings() -> None:
    pipeline = tiny_pipeline()
    require_same(pipeline, tiny_concept(pipeline), weighted)
