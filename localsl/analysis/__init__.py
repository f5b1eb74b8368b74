"""Analyses of trained networks: similarity to backpropagation, linear probes, feature maps, training curves."""
