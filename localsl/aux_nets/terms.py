"""Builds the losses of a module from its settings: similarity, reconstruction and classification terms."""

from __future__ import annotations

from torch import nn

from localsl.aux_nets import augmented
from localsl.aux_nets.augmented import Augmentation
from localsl.aux_nets.heads import BigDGLHead, DGLHead, DGLTokenHead, InfoProHead, LinearHead, PredSimHead
from localsl.aux_nets.settings import AuxSettings
from localsl.core.layers import as_image
from localsl.core.objectives import Contrastive, CrossEntropy, Reconstruction, Similarity, Term
from localsl.core.plan import Plan, Site


class Terms:
    """Builds the terms of a network, module by module."""

    def __init__(self, plan: Plan, aux: AuxSettings):
        self._plan, self._aux = plan, aux
        self._outputs = aux.feature_dim if aux.loss == "contrastive" else plan.num_classes
        self._multipliers: dict[int, float] = {}

    def at(self, site: Site, stage: int) -> list[Term]:
        """The terms for features at `site`; weights that are interpolated over stages use `stage`."""
        aux = self._aux
        assert aux.lambda_ce is not None
        assert aux.lambda_reconstruction is not None
        ratio = self._ratio(site.module, stage)
        terms: list[Term] = []
        if any(aux.lambda_similarity):
            kernel = 1 if not site.has_grid else 3
            projection = nn.Conv2d(site.channels, site.channels, kernel, padding=kernel // 2, bias=False)
            terms.append(Similarity(_for_layout(site, projection), between(aux.lambda_similarity, ratio)))
        if any(aux.lambda_reconstruction):
            size, channels = self._plan.image_size, self._plan.image_channels
            decoder = aux.of_scale.decoder(site.channels, site.size, size, channels)
            terms.append(Reconstruction(_for_layout(site, decoder), between(aux.lambda_reconstruction, ratio)))
        kind = Contrastive if aux.loss == "contrastive" else CrossEntropy
        terms.append(kind(self.head(site), between(aux.lambda_ce, ratio)))
        return terms

    def head(self, site: Site) -> nn.Module:
        """The classifier for features at `site`."""
        name, plan, aux = self._aux.head, self._plan, self._aux
        if aux.depth is not None:
            assert aux.pyramid is not None
            selection = aux.selection if name == "auglocal" else "conv3x3"
            how = augmented.strategy(selection, plan.layers[site.layer].stage)
            augmentation = Augmentation(aux.depth, aux.pyramid, aux.of_scale.norm)
            multiplier = self._width_multiplier(how, augmentation)
            return augmented.build(plan, site, self._outputs, how, multiplier, augmentation)
        return _for_layout(site, self._fixed(name, site))

    def _fixed(self, name: str, site: Site) -> nn.Module:
        """A head of fixed depth, for features as images (N, C, H, W)."""
        if name == "dgl_big":
            return BigDGLHead(site.channels, self._outputs)
        if name == "dgl" and not site.has_grid:
            return DGLTokenHead(site.channels, self._outputs)
        if name == "dgl":
            return DGLHead(site.channels, self._first_size(site), self._outputs)
        if name == "predsim" and not site.has_grid:
            return LinearHead(site.channels, self._outputs, self._aux.zero_start)
        if name == "predsim":
            aux = self._aux
            return PredSimHead(site.channels, site.size, self._outputs, aux.pool_target, aux.zero_start)
        return self._infopro(name, site, self._outputs)

    def contrastive_head(self, site: Site) -> nn.Module:
        """InfoPro's "1c2f" head, with an embedding for the contrastive loss in place of logits."""
        return _for_layout(site, self._infopro("1c2f", site, self._aux.feature_dim))

    def _infopro(self, kind: str, site: Site, outputs: int) -> nn.Module:
        """One of InfoPro's heads; on ImageNet the one of InfoPro for "1c2f" and "2c2f", and MLAAN's for "0c1f"."""
        widest, units = self._plan.layers[-1].channels, self._aux.feature_dim
        if kind == "0c1f":
            return self._aux.of_scale.linear(site.channels, outputs)
        make = self._aux.of_scale.convolutional if kind in ("1c2f", "2c2f") else InfoProHead
        return make(kind, site.channels, widest, outputs, units)

    def _first_size(self, site: Site) -> int:
        """The size of the first in the run of layers of equal width that ends at the site.

        AugLocal's code pools by this size. In its networks it differs from the site's own size only in VGG's last
        stage.
        """
        layers, index = self._plan.layers, site.layer
        while index and layers[index - 1].channels == site.channels:
            index -= 1
        return self._plan.sizes[index]

    def _ratio(self, module: int, stage: int) -> float:
        modules = self._plan.modules
        if self._aux.lambda_over == "module":
            return module / (modules - 2) if modules > 2 else 0.0
        if self._aux.lambda_over == "next_stage":  # the released MAN counts a merged stem as a module
            modules += modules == len(self._plan.layers) - 1
        return stage / (modules - 2) if modules > 2 else 0.0

    def _width_multiplier(self, how: str, augmentation: Augmentation) -> float:
        if self._aux.multiplier is not None:
            return self._aux.multiplier
        if how not in augmented.CONVOLUTIONS:
            return 1.0
        kernel = augmented.CONVOLUTIONS[how]
        if kernel not in self._multipliers:
            sites = [self._plan.site(i) for i in range(self._plan.modules - 1)]
            self._multipliers[kernel] = augmented.matched_multiplier(
                self._plan, sites, kernel, self._outputs, augmentation
            )
        return self._multipliers[kernel]


def _for_layout(site: Site, network: nn.Module) -> nn.Module:
    """The network, preceded by a conversion of the site's features to images where they have another layout."""
    before = as_image(site.layout)
    return nn.Sequential(*before, network) if before else network


def between(ends: list[float], ratio: float) -> float:
    """Interpolate linearly from the first value (ratio 0) to the last (ratio 1).

    Over stages the ratio can exceed 1, as in the released code.
    """
    return ends[0] * (1 - ratio) + ends[1] * ratio
