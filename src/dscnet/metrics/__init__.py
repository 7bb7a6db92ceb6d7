"""Numbers: mIoU of masks and labels against ground truth, and agreement with the tags."""
