"""The terms that `cfg.aux` describes: which head, which decoder, and how each is weighed in each module."""

from __future__ import annotations

from torch import nn

from localsl.aux_nets import augmented
from localsl.aux_nets.decoders import Decoder, ImageNetDecoder
from localsl.aux_nets.heads import (
    INFOPRO_KINDS,
    BigDGLHead,
    DGLHead,
    InfoProHead,
    InfoProImageNetHead,
    MLAANImageNetHead,
    PredSimHead,
)
from localsl.objectives import Contrastive, CrossEntropy, Reconstruction, Similarity, Term
from localsl.plan import Plan, Site

HEADS = ("none", "dgl", "dgl_big", "predsim", "auglocal", *INFOPRO_KINDS)


class Terms:
    """Builds the terms of one network, module by module."""

    def __init__(self, plan: Plan):
        self._plan, self._aux = plan, plan.cfg.aux
        contrastive = self._aux.loss == "contrastive"
        self._outputs = self._aux.feature_dim if contrastive else plan.cfg.dataset.num_classes
        self._multiplier = self._aux.multiplier
        self._imagenet = self._aux.scale == "imagenet"
        self._matched: dict[int, float] = {}

    def at(self, site: Site, stage: int) -> list[Term]:
        """The terms for features at `site`; `stage` for weights that go by stage."""
        aux = self._aux
        assert aux.lambda_ce is not None
        assert aux.lambda_reconstruction is not None
        ratio = self._ratio(site.module, stage)
        terms: list[Term] = []
        if any(aux.lambda_similarity):
            projection = nn.Conv2d(site.channels, site.channels, 3, padding=1, bias=False)
            terms.append(Similarity(projection, between(aux.lambda_similarity, ratio)))
        if any(aux.lambda_reconstruction):
            terms.append(Reconstruction(self._decoder(site), between(aux.lambda_reconstruction, ratio)))
        kind = Contrastive if aux.loss == "contrastive" else CrossEntropy
        terms.append(kind(self.head(site), between(aux.lambda_ce, ratio)))
        return terms

    def head(self, site: Site) -> nn.Module:
        """The classifier alone."""
        name, plan = self._aux.head, self._plan
        if self._aux.depth is not None:
            selection = self._aux.selection if name == "auglocal" else "conv3x3"
            how = augmented.strategy(selection, plan.layers[site.layer].stage)
            return augmented.build(plan, site, self._outputs, how, self._width_multiplier(how))
        if name == "dgl":
            return DGLHead(site.channels, self._first_size(site), self._outputs)
        if name == "dgl_big":
            return BigDGLHead(site.channels, self._outputs)
        if name == "predsim":
            aux = self._aux
            return PredSimHead(site.channels, site.size, self._outputs, aux.pool_target, aux.zero_start)
        return self.infopro(name, site, self._outputs)

    def infopro(self, kind: str, site: Site, outputs: int) -> nn.Module:
        """One of InfoPro's heads; on ImageNet it has one with convolutions, and MLAAN one without."""
        widest = self._plan.layers[-1].channels
        if self._imagenet and kind in ("1c2f", "2c2f"):
            return InfoProImageNetHead(site.channels, widest, outputs)
        if self._imagenet and kind == "0c1f":
            return MLAANImageNetHead(site.channels, outputs)
        return InfoProHead(kind, site.channels, widest, outputs, self._aux.feature_dim)

    def _decoder(self, site: Site) -> nn.Module:
        size = self._plan.cfg.dataset.image_size
        if self._imagenet and site.size < size:
            return ImageNetDecoder(site.channels, site.size, size)
        return Decoder(site.channels, size)

    def _first_size(self, site: Site) -> int:
        """Of the first of the layers in a row that have this width, by which AugLocal's code pools: in its
        networks only VGG's last stage differs.
        """
        layers, index = self._plan.layers, site.layer
        while index and layers[index - 1].channels == site.channels:
            index -= 1
        return self._plan.sizes[index]

    def _ratio(self, module: int, stage: int) -> float:
        modules = self._plan.modules
        if self._aux.lambda_over == "module":
            return module / (modules - 2) if modules > 2 else 0.0
        if self._aux.lambda_over == "next_stage":  # the released MAN counts K with the stem, where it is joined
            modules += modules == len(self._plan.layers) - 1
        return stage / (modules - 2) if modules > 2 else 0.0

    def _width_multiplier(self, how: str) -> float:
        if self._multiplier is not None:
            return self._multiplier
        if how not in augmented.CONVOLUTIONS:
            return 1.0
        kernel = augmented.CONVOLUTIONS[how]
        if kernel not in self._matched:
            sites = [self._plan.site(i) for i in range(self._plan.modules - 1)]
            self._matched[kernel] = augmented.matched_multiplier(self._plan, sites, kernel, self._outputs)
        return self._matched[kernel]


def between(ends: list[float], ratio: float) -> float:
    """From the first value at ratio 0 to the last at ratio 1; by stage the ratio can pass 1, as released."""
    return ends[0] * (1 - ratio) + ends[1] * ratio
