"""Detection and instance segmentation: Mask R-CNN on the trained backbone of a run, evaluated by COCO's metrics."""
