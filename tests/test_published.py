from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from dscnet.build import build_model, optimiser_settings
from dscnet.config import TrainConfig
from dscnet.config.recipes import find_recipe, read_config
from dscnet.context import DualStreamContext
from dscnet.labels import multi_scale_cam, scaled_photos
from dscnet.models import (
    AffinityNet,
    AuxSegNet,
    PlainCam,
    ResNet38,
    Seam,
    load_published,
    published_state,
    write_published,
)
from dscnet.objective import AuxSegObjective, CamObjective
from dscnet.training import TrainingModule, parameter_groups
from dscnet.types import Batch, DscnetError
from published_oracle import auxsegnet_maps, narrow_resnet38, resized, seam_maps, seam_terms
from test_resnet38 import REFERENCE, noise, published_shapes

IMAGENET, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNUSED = ("g.weight", "g.bias", "W_z.0.weight", "W_z.1.running_mean")


def seam(num_classes: int = 3, seed: int = 0) -> Seam:
    torch.manual_seed(seed)
    return Seam(narrow_resnet38(seed), num_classes, dropout=0.0).double()


def auxsegnet(seed: int = 0) -> AuxSegNet:
    torch.manual_seed(seed)
    model = AuxSegNet(
        narrow_resnet38(seed, frozen_stages=1),
        3,
        branch_channels=6,
        dropout=0.0,
        rows=7,
        published_row_quirk=True,
        grid_pooling=True,
    ).double()
    for name, values in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(values, std=0.3)
    with torch.no_grad():
        model.classifier.weight[0] = 0
        for task in (model.segmentation, model.saliency):  # affinities that are far from even
            task.non_local.query.weight.mul_(20)
            task.non_local.key.weight.mul_(20)
    return model


def without_backbone_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return model


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in state.items()}


def some_batch(photos: int = 2, size: tuple[int, int] = (56, 48)) -> Batch:
    tags = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)[:photos]
    return Batch(noise(photos, 3, *size), tags, list("ab")[:photos])


# ------------------------------------------------------------------------------------------- names


@pytest.mark.data
@pytest.mark.parametrize("name", ["seam", "aff", "auxsegnet"])
def test_names_and_shapes_are_those_of_the_published_checkpoint(name: str) -> None:
    with torch.device("meta"):
        backbone = ResNet38()
        models = {"seam": lambda: Seam(backbone, 20), "aff": lambda: AffinityNet(backbone)}
        model = models.get(name, lambda: AuxSegNet(backbone, 20))()
    table = "keys_auxsegnet.tsv" if name == "auxsegnet" else f"keys_{name}_resnet38.tsv"
    expected = published_shapes(REFERENCE / table)
    unused = [key for key in expected if "_att.g" in key or ".W_z." in key]
    assert len(unused) == (18 if name == "auxsegnet" else 0)
    for key in unused:
        del expected[key]
    assert {k: tuple(v.shape) for k, v in published_state(model).items()} == expected


def test_a_seam_has_the_published_groups_of_parameters() -> None:
    with torch.device("meta"):
        model = Seam(ResNet38(), 20)
    groups = parameter_groups(model, lr=0.01, new_lr_factor=10, weight_decay=5e-4)
    assert [len(group["params"]) for group in groups] == [35, 4]
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.1])
    sizes = [sum(p.numel() for p in group["params"]) / 1e6 for group in groups]
    assert sizes == pytest.approx([104.20, 0.287], abs=5e-3)


@pytest.mark.parametrize("make", [seam, auxsegnet, lambda seed: AffinityNet(narrow_resnet38(seed))])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_goes_out_and_comes_back(tmp_path: Path, make, suffix: str) -> None:
    model, other, path = make(seed=0), make(seed=1), tmp_path / "folder" / f"a{suffix}"
    write_published(model, path.with_suffix(".safetensors"))
    if suffix == ".pth":
        torch.save(published_state(model), path)
    report = load_published(other, path)
    assert not report.missing and not report.unexpected
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in model.state_dict().items())
    assert not list(path.parent.glob("*.tmp"))


def test_auxsegnets_classifier_has_no_background_and_unused_parts_are_said() -> None:
    model = auxsegnet()
    state = copied(published_state(model))
    assert state["fc8.weight"].shape == (3, 128, 1, 1)
    assert torch.equal(state["fc8.weight"], model.classifier.weight[1:])
    unused = [f"{task}_att.{name}" for task in ("seg", "sal") for name in UNUSED]
    with torch.no_grad():
        model.classifier.weight.fill_(3)
    report = load_published(model, state | dict.fromkeys(unused, torch.zeros(1)))
    assert report.unexpected == tuple(unused)
    assert model.classifier.weight[0].eq(0).all()
    assert torch.equal(model.classifier.weight[1:], state["fc8.weight"])


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_published(seam(num_classes=4), path)
    model = seam(num_classes=3)
    before = copied(model.state_dict())
    with pytest.raises(
        DscnetError, match=r"a\.safetensors .*fc8\.weight should have 4 labels.* has 5"
    ):
        load_published(model, path)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    state = published_state(auxsegnet())
    state["fc8.weight"] = torch.zeros(20, 128, 1, 1)
    with pytest.raises(DscnetError, match="the given state .* have 3 classes, but has 20"):
        load_published(auxsegnet(), state)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_published(AffinityNet(narrow_resnet38()), path)
    with pytest.raises(DscnetError, match=r"a\.safetensors does not match the model"):
        load_published(seam(), path)


def test_parts_of_dscnet_keep_their_values_and_are_not_written() -> None:
    model = seam()
    state = copied(published_state(seam(seed=1)))
    model.context = DualStreamContext(128, 4, semantic=True, fuse=True).double()
    before = copied(model.context.state_dict())
    load_published(model, state)
    assert all(torch.equal(v, before[n]) for n, v in model.context.state_dict().items())
    assert torch.equal(model.classifier.weight, state["fc8.weight"])
    with pytest.raises(
        ValueError, match=r"no parameters that the published network lacks, got context"
    ):
        published_state(model)


def test_another_backbone_is_refused() -> None:
    backbone = nn.Conv2d(3, 4, 1)
    backbone.channels = (4, 4, 4)
    with pytest.raises(ValueError, match="must have a ResNet38 as its backbone, got Conv2d"):
        published_state(PlainCam(backbone, 2))
    with pytest.raises(ValueError, match="must have a ResNet38 as its backbone, got Conv2d"):
        load_published(PlainCam(backbone, 2), {})


# ----------------------------------------------------------------------------------------- numbers


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def test_seams_maps_equal_the_description() -> None:
    model, image = seam().eval(), some_batch().image
    cam, refined = seam_maps(published_state(model), image)
    output = model(image)
    assert output.cam_logits.abs().max() > 0.1
    enlarge = nn.Upsample((56, 48), mode="bilinear", align_corners=True)
    close(enlarge(output.cam_logits), cam)
    close(enlarge(output.cam_refined), refined)


def test_seams_losses_and_gradients_equal_the_description() -> None:
    model, batch = without_backbone_dropout(seam().train()), some_batch()
    state = copied(published_state(model))
    state = {n: v.requires_grad_() if v.ndim == 4 else v for n, v in state.items()}
    expected = seam_terms(state, batch.image, batch.tags)
    losses = CamObjective()(model(batch.image, batch.tags), batch)
    assert set(losses.terms) == set(expected)
    for name, term in losses.terms.items():
        assert term > 1e-4, name
        close(term, expected[name])
    losses.total.backward()
    sum(expected.values()).backward()
    ours = dict(zip(published_state(model), model.state_dict(), strict=True))
    learning = 0
    for name, values in state.items():
        if values.ndim == 4 and (parameter := model.get_parameter(ours[name])).requires_grad:
            learning += 1
            assert values.grad.abs().max() > 0, name
            close(parameter.grad, values.grad)
    assert learning == 39


def test_six_steps_equal_the_published_optimisation() -> None:
    model, batch, total = without_backbone_dropout(seam().train()), some_batch(size=(40, 32)), 200
    state = copied(published_state(model))
    frozen = ("conv1a", "b2")
    learned = {
        name: values.requires_grad_()
        for name, values in state.items()
        if values.ndim == 4 and name.partition(".")[0].partition("_")[0] not in frozen
    }
    settings = TrainConfig(lr=0.01, lr_warmup=0.0, weight_decay=5e-4, published_momentum_quirk=True)
    module = TrainingModule(
        model, CamObjective(), total_steps=total, **optimiser_settings(settings)
    )
    made = module.configure_optimizers()
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    velocity: dict[str, Tensor] = {}
    for step in range(6):
        optimiser.zero_grad()
        CamObjective()(model(batch.image, batch.tags), batch).total.backward()
        optimiser.step()
        schedule.step()
        terms = seam_terms(state, batch.image, batch.tags)
        gradients = torch.autograd.grad(sum(terms.values()), list(learned.values()))
        for (name, values), gradient in zip(learned.items(), gradients, strict=True):
            rate = 0.01 * (1 - step / total) ** 0.9 * (10 if name.startswith("f") else 1)
            slope = gradient + 5e-4 * values.detach()
            velocity[name] = slope if step == 0 else 5e-4 * velocity[name] + slope
            values.data -= rate * velocity[name]
    for name, values in published_state(model).items():
        torch.testing.assert_close(values, state[name].detach(), rtol=1e-7, atol=1e-8)


def test_inference_at_many_scales_equals_the_description() -> None:
    model = seam().eval()
    state, tags = published_state(model), torch.tensor([[1.0, 0.0, 1.0]])
    generator = torch.Generator().manual_seed(3)
    photo = torch.randint(0, 256, (30, 27, 3), generator=generator, dtype=torch.uint8).numpy()
    total = torch.zeros(3, 30, 27, dtype=torch.float64)
    mean, std = (torch.tensor(c, dtype=torch.float64)[:, None, None] for c in (IMAGENET, SPREAD))

    def normalised(image: np.ndarray) -> Tensor:
        return ((torch.from_numpy(np.array(image)).double() / 255).permute(2, 0, 1) - mean) / std

    scales = (0.5, 1.0, 1.5, 2.0)
    for height, width in ((15, 14), (30, 27), (45, 40), (60, 54)):
        scaled = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC)
        view = normalised(scaled)[None]
        for mirrored in (False, True):
            refined = seam_maps(state, view.flip(3) if mirrored else view)[1][:, 1:]
            seen = resized(refined, (30, 27), aligned=False)[0] * tags[0, :, None, None]
            total += seen.flip(2) if mirrored else seen
    expected = torch.full_like(total, -1.0)
    for c in (0, 2):
        low, high = total[c].min(), total[c].max()
        kept = torch.where(total[c] < low + 1e-5, 0.0, total[c])
        expected[c] = (kept - low - 1e-5) / (high - low + 1e-5)

    def score(image: Tensor, tags: Tensor) -> dict[str, Tensor]:
        return model.score_maps(image.double(), tags)

    with torch.no_grad():
        maps = multi_scale_cam(
            score,
            normalised(photo)[None],
            tags,
            views=[normalised(view)[None] for view in scaled_photos(photo, scales)],
            published_resize=True,
            published_negatives=True,
        )
    torch.testing.assert_close(maps["refined"][0], expected, rtol=1e-7, atol=1e-8)


def aux_batch() -> Batch:
    """Photos whose maps are 20 wide, so that every dilation reaches a pixel."""
    batch = some_batch(size=(16, 160))
    generator = torch.Generator().manual_seed(5)
    batch.mask = torch.randint(0, 4, (2, 16, 160), generator=generator)
    batch.mask[:, :7] = 255
    batch.saliency = torch.rand(2, 1, 16, 160, generator=generator)
    return batch


def test_auxsegnets_outputs_equal_the_description() -> None:
    model, batch = auxsegnet().eval(), aux_batch()
    with torch.no_grad():
        expected = auxsegnet_maps(published_state(model), batch.image)
        output = model(batch.image)
    for name, maps in (
        ("tags", output.tag_logits),
        ("seg_initial", output.seg_initial),
        ("sal_initial", output.saliency_initial),
        ("seg", output.seg_logits),
        ("sal", output.saliency_logits),
        ("cam", output.cam_refined[:, 1:]),
    ):
        assert expected[name].std() > 1e-4, name
        close(maps, expected[name])
    close(model.tag_logits(output, (16, 160)), expected["tags"])


def test_auxsegnets_losses_and_a_step_equal_the_description() -> None:
    model, batch = without_backbone_dropout(auxsegnet().train()), aux_batch()
    state = copied(published_state(model))
    learned = {
        name: values.requires_grad_()
        for name, values in state.items()
        if not name.startswith("conv1a") and "bn" not in name
    }
    settings = TrainConfig(
        lr=7e-4,
        lr_warmup=0.0,
        weight_decay=1e-5,
        bias_lr_factor=1.0,
        published_positional_quirk=True,
    )
    objective = AuxSegObjective(CamObjective())
    module = TrainingModule(model, objective, total_steps=200, **optimiser_settings(settings))
    optimiser = module.configure_optimizers()["optimizer"]
    assert all(group["momentum"] == 1e-5 for group in optimiser.param_groups)
    terms = objective(model(batch.image, batch.tags), batch).terms
    maps = auxsegnet_maps(state, batch.image)
    scores = maps["tags"].sigmoid()
    positive = batch.saliency > 0.5
    expected = {
        "cls": -(batch.tags * scores.log() + (1 - batch.tags) * (1 - scores).log()).mean(),
        "seg": scores.new_zeros(()),
        "sal": scores.new_zeros(()),
    }
    for name in ("seg", "seg_initial"):
        shares = maps[name].softmax(1).gather(1, batch.mask.clamp(max=3)[:, None])[:, 0]
        expected["seg"] = expected["seg"] - shares[batch.mask != 255].log().mean()
    for name in ("sal", "sal_initial"):
        p = maps[name].sigmoid()
        expected["sal"] = expected["sal"] - torch.where(positive, p, 1 - p).log().mean()
    assert set(terms) == set(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-8, atol=1e-9)
    before = copied(state)
    sum(terms.values()).backward()
    optimiser.step()
    gradients = torch.autograd.grad(sum(expected.values()), list(learned.values()))
    moved = published_state(model)
    for (name, values), gradient in zip(learned.items(), gradients, strict=True):
        fast = name.startswith(("seg", "sal", "fc8"))
        step = moved[name] - before[name]
        torch.testing.assert_close(
            step, -7e-4 * (10 if fast else 1) * gradient, rtol=1e-6, atol=1e-12
        )
        assert values.shape == step.shape


# --------------------------------------------------------------------------------------- the page


PAGE = Path(__file__).resolve().parents[1] / "docs" / "published.md"


def test_the_pages_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(published_state(seam(num_classes=20).float()), "resnet38_SEAM.pth")
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    exec(code.replace("create_resnet38()", "create_resnet38(width=1 / 32)"), {})
    printed = capsys.readouterr().out
    assert "missing: none; not used: none" in printed
    assert "[1, 20, 8, 8]" in printed and "conv5" in printed
    assert "[21, 60, 90]" in printed
    assert Path("resnet38_SEAM.safetensors").exists()


def test_the_pieces_that_the_page_names_are_there() -> None:
    table = PAGE.read_text().split("## Single parts")[1]
    rows = [row.split("|")[2:4] for row in table.splitlines() if row.startswith("| ")][1:]
    named = [re.findall(r"`([\w.]+)[`(]", cell) for row in rows for cell in row]
    assert len(rows) == 13
    for homes, names in zip(named[::2], named[1::2], strict=True):
        modules = [import_module(home) for home in homes]
        for name in names:
            assert any(hasattr(module, name) for module in modules), name


@pytest.mark.parametrize(("heading", "recipe"), [("SEAM", "seam"), ("AuxSegNet", "auxsegnet")])
def test_the_pages_options_are_those_of_the_recipe(heading: str, recipe: str) -> None:
    section = re.search(rf"## {heading}\n(.*?)(\n## |\Z)", PAGE.read_text(), re.DOTALL)[1]
    options = re.findall(r"`([a-z]+)\.([a-z_]+)(?:: ([^`]+))?`", section)
    assert {"lr_warmup", "classifier_gain", "clip"} < {name for _, name, _ in options}
    config = read_config(find_recipe(f"voc12_{recipe}"))
    for group, name, value in options:
        expected = yaml.safe_load(value) if value else True
        assert getattr(getattr(config, group), name) == expected, name
    with torch.device("meta"):
        build_model(config, 20, pretrained=False)
    assert optimiser_settings(config.train)["momentum"] == config.train.weight_decay


def test_a_published_file_has_the_ending_of_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        write_published(seam(num_classes=4), tmp_path / "seam.pth")
    assert list(tmp_path.iterdir()) == []
