"""The stages of a run; standard library only."""

STAGES = ("train", "cam", "refine", "label", "segment", "evaluate", "report")
"""Every stage, in the order in which a run goes through them."""
