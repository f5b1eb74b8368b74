"""The settings of a module's auxiliary networks: which head, how deep, which other losses, how they are weighted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from localsl.aux_nets.scale import SCALES, Scale
from localsl.core.settings import ends, number, one_of, ruled

INFOPRO_HEADS = ("0c1f", "0c2f", "1c1f", "1c2f", "1c3f", "2c2f")
HEADS = ("none", "dgl", "dgl_big", "predsim", "auglocal", *INFOPRO_HEADS)


@dataclass(kw_only=True)
class AuxSettings:
    """The auxiliary networks of a module.

    Attributes:
        head: the classifier: DGL's, the released MLAAN's larger one (`dgl_big`), PredSim's, AugLocal's, or one of
            InfoPro's, by its numbers of convolutions and linear layers.
        loss: cross-entropy (`softmax`) or InfoPro's supervised `contrastive` loss.
        feature_dim: hidden units of InfoPro's heads, and length of the contrastive embedding.
        pool_target: features that PredSim's pooling leaves at most.
        zero_start: whether PredSim's classifiers start from weights 0.
        depth: the paper's d, trainable layers with the classifier, of heads that have a depth; None for the head's
            own.
        selection: AugLocal's strategy, one for all stages or one per stage, separated by "/".
        pyramid: AugLocal's tau, by which the depth falls from the first module to the last; None by scale.
        multiplier: width of convolutional heads of a depth; None for AugLocal's multiply-adds.
        lambda_ce, lambda_reconstruction, lambda_similarity: weights of the losses in the first and in the last
            module; None for InfoPro's published ones.
        lambda_over: what they run over: the `module`, the `stage` of its last layer, or of the next layer.
        scale: whose auxiliary networks are meant where the papers' differ: "cifar" or "imagenet"; None for the
            backbone's.
    """

    head: str = ruled(one_of(*HEADS), default="dgl", always=True)
    loss: str = ruled(one_of("softmax", "contrastive"), default="softmax", always=True)
    feature_dim: int = ruled(number(1), default=128, always=True)
    pool_target: int = ruled(number(1), default=512, always=True)
    zero_start: bool = False
    depth: int | None = ruled(
        number(2, instead="d counts the classifier: d=2 is one layer before it"), default=None, always=True
    )
    selection: str = ruled(default="uniform", always=True)
    pyramid: float | None = ruled(number(0, at_most=1), default=None, always=True)
    multiplier: float | None = ruled(number(above=0), default=None, always=True)
    lambda_ce: list[float] | None = ruled(ends(), default_factory=lambda: [1.0, 1.0], always=True)
    lambda_reconstruction: list[float] | None = ruled(ends(), default_factory=lambda: [0.0, 0.0], always=True)
    lambda_similarity: list[float] = ruled(ends(), default_factory=lambda: [0.0, 0.0], always=True)
    lambda_over: str | None = ruled(one_of("module", "stage", "next_stage"), default="module", always=True)
    scale: str | None = ruled(one_of(*SCALES), default="cifar")

    @property
    def of_scale(self) -> Scale:
        """What the scale decides.

        Raises:
            KeyError: while the scale is None.
        """
        return SCALES[self.scale or ""]

    @property
    def decodes(self) -> bool:
        """Whether there is a decoder, whose weights may still be open."""
        return self.lambda_reconstruction is None or any(self.lambda_reconstruction)

    def scaled(self, scale: str) -> AuxSettings:
        """With the network's scale and the pyramid of that scale, where they are None."""
        scale = self.scale or scale
        return replace(
            self, scale=scale, pyramid=SCALES[scale].pyramid if self.pyramid is None else self.pyramid
        )

    def weighted(self, weights: tuple[float, float, float, float], over: str) -> AuxSettings:
        """With these weights (reconstruction first, ce first, reconstruction last, ce last) where they are None."""
        first_r, first_ce, last_r, last_ce = weights
        found = replace(self)
        if found.lambda_reconstruction is None:
            found.lambda_reconstruction = [first_r, last_r]
        if found.lambda_ce is None:
            found.lambda_ce = [first_ce, last_ce]
        if found.lambda_over is None:
            found.lambda_over = over
        return found
