"""The paper's mathematics, without losses: PGCL's groups, SGCL's graph and DSCL's fusion."""

from dscnet.context.categories import (
    RULES,
    group_categories,
    normalise_cam,
    predicted_labels,
    present_labels,
    pseudo_labels,
)
from dscnet.context.clustering import kmeans
from dscnet.context.fusion import (
    FUSIONS,
    HEADS,
    ROW_NORMS,
    DualStreamContext,
    normalise_rows,
)
from dscnet.context.memory import GroupMemory
from dscnet.context.output import ContextOutput
from dscnet.context.pixel_groups import (
    GROUPINGS,
    STARTS,
    PixelGroups,
    cam_starts,
    context_row_factor,
    correlate_groups,
    group_mean,
    group_pixels,
    pool_groups,
    standardise,
)
from dscnet.context.semantic_graph import SemanticGraph, SemanticNodes
from dscnet.context.shrinkage_lda import ShrinkageLDA
from dscnet.deprecation import renamed_names

__all__ = [
    "FUSIONS",
    "GROUPINGS",
    "HEADS",
    "ROW_NORMS",
    "RULES",
    "STARTS",
    "ContextOutput",
    "DualStreamContext",
    "GroupMemory",
    "PixelGroups",
    "SemanticGraph",
    "SemanticNodes",
    "ShrinkageLDA",
    "cam_starts",
    "context_row_factor",
    "correlate_groups",
    "group_categories",
    "group_mean",
    "group_pixels",
    "kmeans",
    "normalise_cam",
    "normalise_rows",
    "pool_groups",
    "predicted_labels",
    "present_labels",
    "pseudo_labels",
    "standardise",
]

__getattr__ = renamed_names(__name__, {"LabelDiscriminant": "ShrinkageLDA"}, globals())
