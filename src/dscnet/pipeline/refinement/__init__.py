"""Refinement steps that use more of a run than CAMs and photos, one file per step."""
