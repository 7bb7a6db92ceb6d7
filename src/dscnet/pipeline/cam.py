"""Stage ``cam``: computes the CAMs of the training photos."""

from __future__ import annotations

import shutil

from dscnet.build import build_model
from dscnet.config import Config
from dscnet.distributed.ranks import on_first
from dscnet.models.backbones import Backbone
from dscnet.models.checkpoint import restore
from dscnet.models.inference import fused
from dscnet.pipeline.cam_maps import write_cams
from dscnet.pipeline.counts_file import counts_file
from dscnet.pipeline.job import Job
from dscnet.pipeline.maps import score_counts, scored_by_saliency
from dscnet.pipeline.stage import Stage, cam_settings, extension, network_code, photo_files
from dscnet.predictor import check_scales
from dscnet.run_folder import fresh_folder


def cam(job: Job, resume: bool) -> None:
    """Write the CAMs of every training photo: ``cams/ID.npz``."""
    if job.config.has_rounds and _copy_last_round(job):
        return
    model = build_model(job.config, job.train.num_classes, pretrained=False)
    restore(model, job.folder.weights)
    model.eval()
    for module in list(model.modules()):
        if isinstance(module, Backbone):
            module.net = fused(module.net)
    write_cams(job, model)
    # Counted while the files are in memory: later stages read every CAM only for its own sake.
    score_counts(
        job.train,
        job.folder.cams,
        saliency=scored_by_saliency(job.config),
        cache=counts_file(job.folder),
    )


def _copy_last_round(job: Job) -> bool:
    """Copy the CAMs of the last round, which has the same network, if it has finished."""
    from dscnet.pipeline.rounds import round_mark

    last = job.folder.round(job.config.auxseg.rounds)
    if not last.is_done("round", round_mark(job)):
        return False
    fresh_folder(job.folder.cams)
    on_first(shutil.copytree)(last.cams, job.folder.cams, dirs_exist_ok=True)
    return True


def _code(config: Config) -> tuple[str, ...]:
    rounds = ("dscnet.pipeline.rounds",) if config.has_rounds else ()
    return (*network_code(config), *rounds)


def _check(job: Job) -> None:
    settings = job.config.cam
    check_scales(settings.scales, "cam.scales")
    if settings.batch_size < 1:
        raise ValueError(f"cam.batch_size must be at least 1, got {settings.batch_size}")


STAGE = Stage(
    "cam",
    cam,
    makes=lambda job: photo_files(job.folder.cams, job.train, "npz"),
    needs=lambda config: ("train",),
    settings=lambda config: {
        **cam_settings(config),
        "scale": config.scale,
        "method.class_similarity": config.method.class_similarity,
        **extension(config, config.model.name),
    },
    code=_code,
    val=lambda config: False,
    check=_check,
    every_photo=lambda config: True,
)
