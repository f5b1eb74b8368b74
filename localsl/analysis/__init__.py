"""What is looked at in trained networks: similarity to backpropagation, probes, feature maps, curves."""
