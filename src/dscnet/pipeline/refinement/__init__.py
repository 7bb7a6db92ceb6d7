"""Refinement steps that read more of a run than CAMs and photos, a file each."""
