"""Settings of a module's auxiliary networks: the head, its depth, further losses, and the weights of all losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from localsl.aux_nets.scale import OF_SCALE, Scale
from localsl.core.architecture import SCALES
from localsl.core.settings import ends, number, one_of, ruled

INFOPRO_HEADS = ("0c1f", "0c2f", "1c1f", "1c2f", "1c3f", "2c2f")
HEADS = ("none", "dgl", "dgl_big", "predsim", "auglocal", *INFOPRO_HEADS)


@dataclass(kw_only=True)
class AuxSettings:
    """Settings of a module's auxiliary networks.

    Attributes:
        head: the classifier: `dgl`, the larger one of the released MLAAN (`dgl_big`), `predsim`, `auglocal`, or one
            of InfoPro's, named by its numbers of convolutions (c) and linear layers (f).
        loss: cross-entropy (`softmax`) or InfoPro's supervised `contrastive` loss.
        feature_dim: hidden units of InfoPro's heads, and dimension of the contrastive embedding.
        pool_target: maximum number of features after PredSim's pooling.
        zero_start: whether the weights of PredSim's classifiers start at 0.
        depth: AugLocal's d, the number of trainable layers of the first module's head, classifier included; None
            for a head of fixed depth.
        selection: AugLocal's strategy, one for all stages or one per stage, separated by "/".
        pyramid: AugLocal's tau, which sets how much the depth decreases from the first module to the last; None
            for the default of the scale.
        multiplier: width of convolutional heads of a given depth, relative to the features; None for the width at
            which they cost as many multiply-adds as AugLocal's.
        lambda_ce, lambda_reconstruction, lambda_similarity: weights of the losses in the first and in the last
            module; None for InfoPro's published weights.
        lambda_over: what the weights are interpolated over: the `module`, the `stage` of its last layer, or the
            stage of the layer after it (`next_stage`).
        scale: which auxiliary networks to use where the papers' differ, "cifar" or "imagenet"; None for those of
            the backbone's scale.
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
        """The auxiliary networks of this scale.

        Raises:
            KeyError: if the scale is None.
        """
        return OF_SCALE[self.scale or ""]

    @property
    def decodes(self) -> bool:
        """Whether there is a decoder; its weights may not be resolved yet."""
        return self.lambda_reconstruction is None or any(self.lambda_reconstruction)

    def scaled(self, scale: str) -> AuxSettings:
        """A copy in which a scale of None becomes `scale`, and a pyramid of None that of the scale."""
        scale = self.scale or scale
        return replace(
            self, scale=scale, pyramid=OF_SCALE[scale].pyramid if self.pyramid is None else self.pyramid
        )

    def weighted(self, weights: tuple[float, float, float, float], over: str) -> AuxSettings:
        """A copy in which `weights` and `over` replace lambdas and a `lambda_over` that are None.

        Args:
            weights: (reconstruction first, cross-entropy first, reconstruction last, cross-entropy last).
            over: what they are interpolated over.
        """
        first_r, first_ce, last_r, last_ce = weights
        filled = replace(self)
        if filled.lambda_reconstruction is None:
            filled.lambda_reconstruction = [first_r, last_r]
        if filled.lambda_ce is None:
            filled.lambda_ce = [first_ce, last_ce]
        if filled.lambda_over is None:
            filled.lambda_over = over
        return filled
