"""Refinement of pseudo labels: CRF, PAMR, random walks, mask proposals, learned affinities."""
