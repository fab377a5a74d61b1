"""Every method: the model comes back bit for bit, files round-trip, steps are the originals'."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from cones.backbones import backbone_for
from cones.backbones.spoken import spoken
from cones.errors import BackboneError, CodecError, SearchError
from cones.find import Settings
from cones.generate import sample
from cones.methods import LEARNT, METHODS, Customization, Method, Task
from cones.methods.custom_diffusion import CustomDiffusion, resized, start_token_held
from cones.methods.dreambooth import DreamBooth
from cones.methods.loop import descend, joint_loss, leaves_of
from cones.methods.lora import ADAPTER, LoRA, adapted
from cones.methods.merge import constrained, merged
from cones.methods.shira import SHiRA
from cones.methods.textual_inversion import TextualInversion, first_vectors
from cones.subject import Subject

TINY = Settings(
    steps=2, refine_steps=1, held_out=4, batch=1, prior_count=2, density=0.05, prior_prompts="noun"
)
BRIEF = {"steps": 2, "batch": 2, "pool": 6, "rate": 1e-2}
SHORT = {
    "cones": {"settings": TINY},
    "cones-collaborative": {"settings": TINY},
    "cones-scenes": {"settings": replace(TINY, prior_prompts="scenes", prior_steps=1)},
    "cones-scratch": {"settings": TINY},
    "custom-diffusion": BRIEF,
    "custom-diffusion-merged": BRIEF,
    "dreambooth": {"steps": 2, "rate": 1e-3},
    "lora": {"steps": 3, "rate": 1e-1, "rank": 2},
    "shira": {"steps": 2, "rate": 1e-1, "scoring": 2, "batch": 2},
    "textual-inversion": {"steps": 2, "batch": 2},
}


def task(generator, noun="cat", identifier="V*"):
    images = torch.rand(3, 3, 64, 64, generator=generator)
    prior = torch.rand(2, 3, 64, 64, generator=generator)
    return Task(Subject(images, noun, identifier), prior)


def state(pipeline):
    parts = (pipeline.unet, pipeline.text_encoder, pipeline.vae)
    return [
        (name, id(p), p.detach().clone(), p.requires_grad)
        for part in parts
        for name, p in part.named_parameters()
    ]


def same(before, after):
    return len(before) == len(after) and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) and a[3] == b[3]
        for a, b in zip(before, after, strict=True)
    )


def drawn(pipeline, prompt="a V* cat on the grass"):
    (image,) = sample(pipeline, [prompt], seeds=[3], steps=2)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)


def noised_by_diffusers(pipeline, draw):
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    return schedule.add_noise(draw.pairs.latents, draw.noise, draw.timesteps)


def latents_of(pipeline):
    draw = torch.Generator().manual_seed(3)
    options = {"num_inference_steps": 2, "generator": draw, "output_type": "latent"}
    return pipeline("a V* cat", **options).images


@pytest.mark.parametrize("name", METHODS)
def test_a_method_draws_otherwise_and_leaves_no_trace(name, sd1, fresh, generator, tmp_path):
    pipeline = fresh(sd1)
    method = METHODS[name](**SHORT[name])
    assert isinstance(method, Method)
    work = task(generator)
    backbone_for(pipeline).register("V*")
    before, plain = state(pipeline), drawn(pipeline)
    steps = []
    learnt = method.fit(pipeline, [work], seed=1, on_progress=steps.append)
    assert isinstance(learnt, Customization)
    assert isinstance(learnt, LEARNT[name])
    assert steps
    assert same(before, state(pipeline))
    with learnt.applied(pipeline):
        changed = drawn(pipeline)
    assert same(before, state(pipeline))
    assert torch.equal(plain, drawn(pipeline))
    assert not torch.equal(plain, changed)

    size = learnt.save(tmp_path / "learnt")
    assert size == sum(p.stat().st_size for p in (tmp_path / "learnt").rglob("*") if p.is_file())
    again = LEARNT[name].load(tmp_path / "learnt")
    with again.applied(pipeline):
        assert torch.equal(changed, drawn(pipeline))
    with pytest.raises(RuntimeError), again.applied(pipeline):
        raise RuntimeError
    assert same(before, state(pipeline))
    other = method.fit(pipeline, [work], seed=1)
    with other.applied(pipeline):
        assert torch.equal(changed, drawn(pipeline))


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("cones")])
def test_no_training_is_the_untouched_model(name, sd1, fresh, generator):
    pipeline = fresh(sd1)
    backbone_for(pipeline).register("V*")
    rows = first_vectors(pipeline, "V*")
    plain = drawn(pipeline)
    method = replace(METHODS[name](**SHORT[name]), steps=0)
    learnt = method.fit(pipeline, [task(generator)])
    with learnt.applied(pipeline):
        found = drawn(pipeline)
    if name == "textual-inversion":  # its word starts as the category's
        with spoken(pipeline, {"V*": first_vectors(pipeline, "cat")}):
            plain = drawn(pipeline)
        assert not torch.equal(
            rows["text_encoder"], first_vectors(pipeline, "cat")["text_encoder"]
        )
    assert torch.equal(found, plain)


@pytest.mark.parametrize("name", METHODS)
def test_two_subjects_are_learnt_together(name, sd1, fresh, generator):
    pipeline = fresh(sd1)
    tasks = [task(generator), task(generator, "dog", "V2*")]
    learnt = METHODS[name](**SHORT[name]).fit(pipeline, tasks)
    with learnt.applied(pipeline):
        both = drawn(pipeline, "a V* cat and a V2* dog")
    assert not torch.equal(both, drawn(pipeline, "a V* cat and a V2* dog"))


def test_a_missing_file_is_named(tmp_path):
    for name in ("custom-diffusion", "dreambooth", "lora", "shira", "textual-inversion"):
        with pytest.raises(CodecError, match=r"cannot read .*safetensors .*; fit and save again"):
            LEARNT[name].load(tmp_path)


def test_weights_of_another_model_are_refused(sd1, fresh, generator):
    pipeline = fresh(sd1)
    learnt = DreamBooth(steps=0).fit(pipeline, [task(generator)])
    wrong = replace(learnt, weights={"conv_in.weight": torch.zeros(1)})
    before = state(pipeline)
    expected = pytest.raises(BackboneError, match="found weights for 'conv_in.weight'")
    with expected, wrong.applied(pipeline):
        pass
    assert same(before, state(pipeline))


def test_a_loss_that_is_not_finite_stops_the_training():
    leaf = torch.ones(2, requires_grad=True)
    with pytest.raises(SearchError, match="found a loss of nan at step 1 of x"):
        descend(
            [leaf], lambda k: leaf.sum() * (float("nan") if k else 1), steps=3, rate=0.1, label="x"
        )
    assert torch.isfinite(leaf).all()


def test_dreambooth_takes_the_step_of_a_plain_training_loop(sd1, fresh, generator):
    """The U-Net itself, backward and torch's AdamW, on what the loss says it drew."""
    pipeline = fresh(sd1)
    work = task(generator)
    learnt = DreamBooth(steps=1, rate=1e-3, batch=2).fit(pipeline, [work], seed=4)
    (loss,) = joint_loss(pipeline, [work], batch=2).losses
    draw = loss._draw(2, ("search", 4, 0))
    unet = pipeline.unet.requires_grad_(True)
    noised = noised_by_diffusers(pipeline, draw)
    states = draw.pairs.condition["encoder_hidden_states"]
    found = unet(noised, draw.timesteps, states).sample
    target = draw.noise
    halves = (found - target).square().mean((1, 2, 3))
    total = halves[:2].mean() + halves[2:].mean()
    optimiser = torch.optim.AdamW(unet.parameters(), lr=1e-3, weight_decay=1e-2)
    total.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
    optimiser.step()
    compared = 0
    for name, weight in unet.named_parameters():
        certain = weight.grad.abs() > 1e-6  # AdamW's first step is the sign of the gradient
        compared += int(certain.sum())
        torch.testing.assert_close(
            learnt.weights[name][certain], weight.detach()[certain], atol=1e-5, rtol=1e-4
        )
    assert compared > 0.5 * sum(p.numel() for p in unet.parameters())


def test_lora_adds_the_product_of_its_matrices(sd1, fresh, generator):
    """What peft's adapter computes is the U-Net with ``W + B A`` written in."""
    pipeline = fresh(sd1)
    learnt = LoRA(steps=3, rate=0.1, rank=2).fit(pipeline, [task(generator)])
    with learnt.applied(pipeline):
        adapter = drawn(pipeline)
    for name in [n for n in learnt.weights if "lora_A" in n]:
        update = learnt.weights[name.replace("lora_A", "lora_B")] @ learnt.weights[name]
        layer = pipeline.unet.get_submodule(name.removesuffix(".lora_A.weight"))
        layer.weight.data += update
    assert (adapter.int() - drawn(pipeline).int()).abs().max() <= 1


def test_lora_takes_the_step_of_peft_itself(sd1, fresh, generator):
    pipeline = fresh(sd1)
    work = task(generator)
    learnt = LoRA(steps=1, rate=1e-2, batch=1, rank=2).fit(pipeline, [work], seed=2)
    (loss,) = joint_loss(pipeline, [work], batch=1).losses
    with adapted(pipeline, rank=2, seed=2) as matrices:
        draw = loss._draw(1, ("search", 2, 0))
        noised = noised_by_diffusers(pipeline, draw)
        states = draw.pairs.condition["encoder_hidden_states"]
        found = pipeline.unet(noised, draw.timesteps, states).sample
        each = (found - draw.noise).square().mean((1, 2, 3))
        trained = [p for n, p in pipeline.unet.named_parameters() if f".{ADAPTER}." in n]
        optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=1e-2)
        each.sum().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        compared = 0
        for name, matrix in matrices.items():
            certain = matrix.grad.abs() > 1e-6  # AdamW's first step is the sign of the gradient
            compared += int(certain.sum())
            assert "lora_B" in name or not certain.any()  # B = 0 lets no gradient reach A
            torch.testing.assert_close(
                learnt.weights[name][certain], matrix.detach()[certain], atol=1e-4, rtol=1e-3
            )
        assert compared > 0.5 * sum(m.numel() for n, m in matrices.items() if "lora_B" in n)


def test_lora_loads_in_diffusers(sd1, fresh, generator, tmp_path):
    pipeline = fresh(sd1)
    learnt = LoRA(steps=2, rate=0.1, rank=2).fit(pipeline, [task(generator)])
    learnt.save(tmp_path)
    with learnt.applied(pipeline):
        ours = drawn(pipeline)
    pipeline.load_lora_weights(str(tmp_path))
    assert (ours.int() - drawn(pipeline).int()).abs().max() <= 1


def test_words_load_in_diffusers(sd1, fresh, generator, tmp_path):
    pipeline = fresh(sd1)
    learnt = TextualInversion(steps=2, batch=2).fit(pipeline, [task(generator)])
    learnt.save(tmp_path)
    with learnt.applied(pipeline):
        ours = drawn(pipeline)
    other = fresh(sd1)
    other.load_textual_inversion(str(tmp_path), weight_name="learned_embeds.safetensors")
    assert torch.equal(ours, drawn(other))


def test_custom_diffusion_loads_in_diffusers(sd1, fresh, generator, tmp_path):
    pipeline = fresh(sd1)
    learnt = CustomDiffusion(steps=2, batch=2, pool=4, rate=1e-2).fit(pipeline, [task(generator)])
    learnt.save(tmp_path)
    with learnt.applied(pipeline):
        ours = latents_of(pipeline)
    other = fresh(sd1)
    name = "pytorch_custom_diffusion_weights.safetensors"
    other.unet.load_attn_procs(str(tmp_path), weight_name=name, _pipeline=other)
    other.load_textual_inversion(str(tmp_path), weight_name="learned_embeds.safetensors")
    torch.testing.assert_close(ours, latents_of(other), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(ours, latents_of(fresh(sd1)), atol=1e-3, rtol=1e-3)


def test_gradients_pass_the_start_token_as_in_diffusers(sd1, fresh, generator):
    """Diffusers' own processor of Custom Diffusion, on the same layer and states."""
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

    pipeline = fresh(sd1)
    backbone = backbone_for(pipeline)
    name = backbone.sites("cross")[0].removesuffix(".to_k.weight")
    layer = pipeline.unet.get_submodule(name)
    width, words = layer.to_q.in_features, layer.to_k.in_features
    processor = CustomDiffusionAttnProcessor(
        train_kv=True, train_q_out=False, hidden_size=width, cross_attention_dim=words
    )
    processor.to_k_custom_diffusion.weight.data.copy_(layer.to_k.weight)
    processor.to_v_custom_diffusion.weight.data.copy_(layer.to_v.weight)
    hidden = torch.randn(2, 16, width, generator=generator)
    states = torch.randn(2, 5, words, generator=generator).requires_grad_()
    theirs = processor(layer, hidden, states)
    theirs.square().sum().backward()
    expected = [processor.to_k_custom_diffusion.weight.grad, states.grad.clone()]
    expected.append(processor.to_v_custom_diffusion.weight.grad)
    states.grad = None
    layer.requires_grad_(True)
    with start_token_held(backbone):
        ours = layer(hidden, states)
        ours.square().sum().backward()
    torch.testing.assert_close(ours, theirs)
    found = [layer.to_k.weight.grad, states.grad, layer.to_v.weight.grad]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert states.grad[:, 0].abs().max() == 0


def test_pictures_are_shown_smaller_and_larger(generator):
    photo = torch.rand(3, 64, 64, generator=generator)
    whole, mask = resized(photo, 1.3, generator, grid=8)
    assert whole.shape == (3, 64, 64)
    assert mask.min() == 1
    small, mask = resized(photo, 0.5, generator, grid=8)
    grey = (small == 0.5).all(0)
    assert grey.float().mean() == pytest.approx(0.75, abs=0.02)
    rows, columns = mask[0].nonzero(as_tuple=True)
    inside = torch.ones(64, 64, dtype=torch.bool)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        assert not grey[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].all()
        inside[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = False
    assert 1 <= len(rows) <= 9
    identity, _ = resized(photo, 1.0, generator, grid=8)
    torch.testing.assert_close(identity, photo)


def test_photos_can_keep_their_own_size(sd1, fresh, generator):
    pipeline = fresh(sd1)
    backbone, each = backbone_for(pipeline), task(generator)
    photos = torch.cat([each.subject.images, each.subject.images.flip(-1)])
    whole = joint_loss(pipeline, [each], batch=2).losses[0]
    own = CustomDiffusion(pool=8, sizes=False)._pool(backbone, each, whole, 0)
    sized = CustomDiffusion(pool=8)._pool(backbone, each, whole, 0)
    assert own[1] == [each.subject.prompt] * 8
    assert len(set(sized[1])) > 1
    assert own[0].subject.mask.min() == 1
    assert sized[0].subject.mask.min() == 0
    known = backbone.latents(photos)
    for latent in own[0].subject.latents:
        assert min(float((latent - each).abs().max()) for each in known) < 1e-4


def test_the_loss_counts_inside_the_mask_alone(sd1):
    backbone = backbone_for(sd1)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *backbone.latent_shape, generator=draw)
    noise = torch.randn(latents.shape, generator=draw)
    given = {
        "latents": latents,
        "noise": noise,
        "timesteps": torch.tensor([10, 500]),
        "condition": backbone.condition(["a cat", "a dog"]),
    }
    ones = torch.ones(2, 1, *latents.shape[2:])
    whole = backbone.loss({}, **given)
    torch.testing.assert_close(backbone.loss({}, **given, mask=3 * ones), whole)
    left, right = ones.clone(), ones.clone()
    left[..., 4:], right[..., :4] = 0, 0
    parts = backbone.loss({}, **given, mask=left), backbone.loss({}, **given, mask=right)
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)
    assert (parts[0] != parts[1]).all()


def test_words_mean_other_vectors_only_inside_and_only_where_they_stand(sd1, fresh, generator):
    pipeline = fresh(sd1)
    backbone = backbone_for(pipeline)
    backbone.register("V*")
    before = backbone.condition(["a V* cat", "a cat"])["encoder_hidden_states"]
    vectors = {"text_encoder": torch.randn(1, 32, generator=generator).requires_grad_()}
    with spoken(pipeline, {"V*": vectors}):
        inside = backbone.embedded(["a V* cat", "a cat"])["encoder_hidden_states"]
    assert not torch.allclose(inside[0], before[0])
    assert torch.equal(inside[1], before[1])
    after = backbone.condition(["a V* cat", "a cat"])["encoder_hidden_states"]
    assert torch.equal(after, before)
    inside[0].sum().backward()
    assert vectors["text_encoder"].grad.abs().max() > 0
    table = pipeline.text_encoder.get_input_embeddings().weight
    own = table.data[-1:].clone()
    with spoken(pipeline, {"V*": {"text_encoder": own}}):
        same_row = backbone.condition(["a V* cat"])["encoder_hidden_states"]
    assert torch.equal(same_row[0], before[0])
    expected = pytest.raises(BackboneError, match="'W\\*' is not one token")
    with expected, spoken(pipeline, {"W*": vectors}):
        pass


def test_shira_trains_the_weights_of_largest_saliency(sd1, fresh, generator):
    pipeline = fresh(sd1)
    work = task(generator)
    method = SHiRA(steps=2, rate=0.1, scoring=1, batch=2, density=0.03)
    learnt = method.fit(pipeline, [work], seed=5)
    live = backbone_for(pipeline).weights("both")
    (loss,) = joint_loss(pipeline, [work], batch=2).losses
    leaves = leaves_of(live)
    loss.at(0, seed=5)(leaves).backward()
    for name, at in learnt.positions.items():
        saliency = (leaves[name] * leaves[name].grad).detach().abs().flatten()
        assert len(at) == max(1, round(0.03 * saliency.numel()))
        assert saliency[at].min() >= saliency.topk(len(at)).values.min() * (1 - 1e-5)
        assert (at.diff() > 0).all()
    changed = [
        (learnt.values[n] != live[n].flatten()[at]).any() for n, at in learnt.positions.items()
    ]
    assert all(changed)


def test_a_picture_of_the_masked_loss_has_no_effect_outside(generator):
    error = torch.rand(1, 1, 4, 4, generator=generator)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1
    expected = F.mse_loss(error[..., :2, :2], torch.zeros(1, 1, 2, 2))
    found = (error.square() * mask / mask.mean()).mean()
    torch.testing.assert_close(found, expected)


def test_the_merge_keeps_the_words_and_changes_as_little_else_as_possible(generator):
    weight = torch.randn(6, 8, generator=generator)
    captions = torch.randn(40, 8, generator=generator) * torch.linspace(0.3, 2, 8)
    words, values = (torch.randn(3, n, generator=generator) for n in (8, 6))
    found = constrained(weight, captions, words, values)
    torch.testing.assert_close(words @ found.T, values, atol=1e-4, rtol=1e-4)
    least = ((found - weight) @ captions.T).square().sum()
    free = torch.linalg.svd(words, full_matrices=True).Vh[3:]  # directions the words do not see
    for _ in range(20):
        other = found + 0.1 * torch.randn(6, 5, generator=generator) @ free
        torch.testing.assert_close(words @ other.T, values, atol=1e-4, rtol=1e-4)
        assert ((other - weight) @ captions.T).square().sum() > least


def test_a_ridge_makes_changes_cost_that_captions_do_not_see(generator):
    weight = torch.randn(6, 8, generator=generator)
    captions = torch.randn(40, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    words, values = (torch.randn(3, n, generator=generator) for n in (8, 6))
    free, bound = (
        constrained(weight, captions, words, values, ridge=ridge) for ridge in (1e-6, 0.1)
    )
    for found in (free, bound):
        torch.testing.assert_close(words @ found.T, values, atol=1e-3, rtol=1e-3)
    cost = captions.square().sum(0).mean() * 0.1  # per unit of squared change
    both = [
        ((w - weight) @ captions.T).square().sum() + cost * (w - weight).square().sum()
        for w in (free, bound)
    ]
    assert both[1] < both[0]
    assert (bound - weight).norm() < (free - weight).norm()


def test_merged_concepts_answer_to_their_own_words(sd1, fresh, generator):
    pipeline = fresh(sd1)
    method = CustomDiffusion(steps=2, batch=2, pool=4, rate=1e-2)
    tasks = [task(generator), task(generator, "dog", "V2*")]
    apart = [method.fit(pipeline, [one]) for one in tasks]
    captions = [
        "a photo of a cat on the grass",
        "a dog",
        "the wooden pot on a cat",
        "a pot of a dog",
    ]
    both = merged(pipeline, apart, ["V* cat", "V2* dog"], captions)
    backbone = backbone_for(pipeline)
    with spoken(pipeline, both.words):
        states = backbone.condition(["V* cat", "V2* dog"])["encoder_hidden_states"]
    for name, weight in both.weights.items():
        for row, own in zip(states, apart, strict=True):
            at = row[1:4]  # two words and the end
            torch.testing.assert_close(
                at @ weight.T, at @ own.weights[name].T, atol=2e-3, rtol=2e-3
            )
    with pytest.raises(SearchError, match="found 2 concepts called V\\* cat with the words"):
        merged(pipeline, apart, ["V* cat"], captions)
