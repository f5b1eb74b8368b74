"""Detection and instance segmentation: Mask R-CNN on the trained backbone of a run, and its evaluation as COCO's."""
