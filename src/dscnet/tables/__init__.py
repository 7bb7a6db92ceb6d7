"""The paper's tables and figures: their runs, cells, numbers and files.

Imports nothing here: the command line reads ``specs`` without torch.
"""
