"""Training of the CAM network on photos and tags, and of the class prototypes after it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dscnet.build import build_eval_transform, build_scale, build_train_transform, device_of
from dscnet.config import Config, MethodConfig
from dscnet.context import DualStreamContext, ShrinkageLDA
from dscnet.data import PhotoDataset
from dscnet.data.scale import windows
from dscnet.distributed.ranks import on_first, sum_over_ranks
from dscnet.labels.cam import normalise_scores
from dscnet.labels.thresholds import BINS, otsu_score
from dscnet.models import PlainCam
from dscnet.models.checkpoint import store
from dscnet.pipeline.fitting import Training, optimise, write_card
from dscnet.pipeline.full_images import photo_batches, tag_matrix
from dscnet.pipeline.job import Job, data_mark
from dscnet.pipeline.stage import cam_settings, extension, learning_settings, without
from dscnet.pipeline.tag_validation import tag_criterion, tag_map
from dscnet.run_folder import write_text
from dscnet.training import CollapseWatch, KeepBest, tag_entropy
from dscnet.types import BACKGROUND


def train_cam_network(
    job: Job,
    model: PlainCam,
    objective: torch.nn.Module,
    resume: bool,
    *,
    mask_dir: Path | None = None,
    saliency_dir: Path | None = None,
) -> None:
    """Train a CAM network into the job's folder.

    With ``train.keep: best`` the weights of the best epoch by tags are kept.

    Args:
        job: The run, or one of its rounds.
        model: The network.
        objective: Its losses.
        resume: Whether the checkpoint in the folder can be resumed.
        mask_dir: Folder of pseudo labels for AuxSegNet.
        saliency_dir: Folder of saliency maps for AuxSegNet; None = those of the data set.
    """
    config, folder, backbone = job.config, job.folder, model.backbone
    transform = build_train_transform(config, backbone.mean, backbone.std)
    dataset = PhotoDataset(
        job.train,
        transform,
        mask_dir=mask_dir,
        saliency_dir=saliency_dir,
        long_side=transform.read_side,
    )
    write_card(folder.model_card, job, backbone.mean, backbone.std)
    watch = CollapseWatch("cls", tag_entropy(tag_matrix(job.train)))
    criterion, score = tag_criterion(job)
    best = KeepBest(lambda network: score(job, network)) if config.train.keep == "best" else None
    callbacks = [watch, *([] if best is None else [best])]
    training = Training(
        model, objective, dataset, config.train, folder.checkpoints, folder.losses, callbacks
    )
    optimise(job, training, resume=resume)
    chosen: dict[str, Any] = {}
    if best is not None:
        best.restore(model)
        chosen = {"criterion": criterion, "scores": best.scores, "kept_epoch": best.epoch}
    fit_lda(job, model)
    on_first(store)(model, folder.weights)
    scores = {"collapsed": watch.collapsed, "map": tag_map(job, model), **chosen}
    scores["photos"] = data_mark(job, "val")
    write_text(folder.tag_scores, json.dumps(scores) + "\n")


@torch.no_grad()
def fit_lda(job: Job, model: PlainCam) -> None:
    """Fit the class prototypes of a context with PGCL on the network's own labels.

    One pass over the training photos at scale 1. Otsu's threshold on the CAMs of a photo separates
    its classes from background, so the result does not depend on settings of inference.
    """
    context = model.context
    if not job.config.method.pgcl or not isinstance(context, DualStreamContext):
        return
    learned = ShrinkageLDA(context.num_labels, context.embedding_dim).double()
    # Prototypes of an earlier training would affect the labels that these are fitted on.
    context.lda.load_state_dict(learned.state_dict())
    device = device_of(job.config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    scale = build_scale(job.config)
    for batch in photo_batches(job, transform, scales=[1.0]):
        # K-means starts at random: the result must depend neither on the batches before this one
        # nor on whether training was resumed.
        torch.manual_seed(job.config.seed)
        tags = batch.tags.to(device)
        view = batch.views[0].to(device)
        size = (view.shape[-2], view.shape[-1])
        for rows, columns in windows(size, scale.tiles, scale.tile_overlap):
            output = model.one_view(view[..., rows, columns], tags)
            maps = output.final_logits if output.cam_refined is None else output.cam_refined
            scores = normalise_scores(maps[:, 1:], tags).flatten(2).cpu()
            assert output.features is not None
            embedded = context.embed(output.features).cpu()
            for photo, embeddings in zip(scores, embedded, strict=True):
                learned.add(embeddings, _shown_labels(photo))
    sum_over_ranks(learned.pixels, learned.total, learned.squares)
    context.lda.load_state_dict(learned.state_dict())


def _shown_labels(scores: torch.Tensor) -> torch.Tensor:
    """Labels ``(N,)`` of a photo's cells from its CAMs ``(C, N)`` and Otsu's threshold."""
    best, strongest = scores.max(0)
    cut = otsu_score(torch.histc(best, BINS, 0, 1).numpy())
    # CAMs without contrast, e.g. of a photo without tags, show nothing.
    shown = best > (1.0 if cut is None else cut)
    return torch.where(shown, strongest + 1, BACKGROUND)


def training_settings(config: Config) -> dict[str, Any]:
    """Settings that the training of the CAM network depends on."""
    method = config.method
    if not config.has_rounds:
        # Applied after training, except between rounds.
        method = replace(method, class_similarity=MethodConfig.class_similarity)
    settings = {"model": config.model, "method": method, "train": config.train}
    settings |= {**learning_settings(config), **extension(config, config.model.name)}
    return {**settings, **(_round_settings(config) if config.has_rounds else _lda_settings(config))}


def _lda_settings(config: Config) -> dict[str, Any]:
    """Settings of inference that the class prototypes depend on."""
    read = ("cam.batch_size", "cam.published_resize_quirk") if config.method.pgcl else ()
    return {name: value for name, value in cam_settings(config).items() if name in read}


def _round_settings(config: Config) -> dict[str, Any]:
    auxseg, segment = asdict(config.auxseg), config.segment
    # They affect memory, and the labels of the run.
    auxseg = without(auxseg, "affinity_rows", "last_round_labels")
    settings = {"auxseg": auxseg, **cam_settings(config)}
    if config.auxseg.self_training_source == "branch":
        names = ("branch_scores", "test_scales", "flip_test")
        settings |= {f"segment.{name}": getattr(segment, name) for name in names}
    return settings
