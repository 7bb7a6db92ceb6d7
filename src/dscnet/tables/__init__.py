"""Reproduction of the paper's tables and figures.

No imports here: the command line uses ``specs`` without torch.
"""
