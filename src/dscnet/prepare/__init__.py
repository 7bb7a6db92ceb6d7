"""Preparation of published data sets for training."""

from dscnet.prepare.coco import prepare_coco, prepare_coco2014
from dscnet.prepare.outcome import Outcome
from dscnet.prepare.voc import prepare_voc2012

__all__ = ["Outcome", "prepare_coco", "prepare_coco2014", "prepare_voc2012"]
