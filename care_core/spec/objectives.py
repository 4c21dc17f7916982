"""The sections of a spec that say what is optimised: the method, CARE's term, and their weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from care_core.spec.sections import NonNegative, Positive, Probability, Section


class SimCLR(Section):
    """Chen et al., 2020: InfoNCE over the two views of a batch."""

    name: Literal["simclr"] = "simclr"
    temperature: Positive = 0.5


class MoCo(Section):
    """MoCo-v2 (Chen et al., 2020): an EMA key encoder and a queue of negatives."""

    name: Literal["moco"] = "moco"
    temperature: Positive = 0.2
    queue: int = Field(65536, ge=1, description="keys; a multiple of the batch")
    momentum: Probability = Field(0.999, description="m of the key encoder: k ← m k + (1 − m) q")
    shuffle_bn: bool = Field(True, description="keys are encoded in batches shuffled over ranks")


class BarlowTwins(Section):
    """Zbontar et al., 2021: the cross-correlation of the views should be the identity."""

    name: Literal["barlow"] = "barlow"
    off_diagonal: NonNegative = Field(0.0051, description="λ of the paper, of the redundancy term")


class BYOL(Section):
    """Grill et al., 2020: predict the EMA target's projection of the other view."""

    name: Literal["byol"] = "byol"
    momentum: Probability = Field(0.996, description="τ at the start; rises to 1 by half a cosine")
    hidden: int = Field(4096, ge=1, description="units of the predictor's hidden layer")


def _tag(value: Any) -> str:
    name = value.get("name", "simclr") if isinstance(value, dict) else getattr(value, "name", "")
    return str(name)


class EquiMod(Section):
    """Devillers and Lefort, ICLR 2023: predict an augmented view's embedding from the image's."""

    name: Literal["equimod"] = "equimod"
    base: Annotated[
        Annotated[SimCLR, Tag("simclr")] | Annotated[BYOL, Tag("byol")], Discriminator(_tag)
    ] = SimCLR()
    weight: NonNegative = Field(1.0, description="of the equivariance module's loss")
    temperature: Positive = Field(0.2, description="of the equivariance module's NT-Xent")
    hidden: int = Field(2048, ge=1, description="units of the module's projector")
    embedding: int = Field(128, ge=2, description="dimension of the module's space")


Method = Annotated[
    Annotated[SimCLR, Tag("simclr")]
    | Annotated[MoCo, Tag("moco")]
    | Annotated[BarlowTwins, Tag("barlow")]
    | Annotated[BYOL, Tag("byol")]
    | Annotated[EquiMod, Tag("equimod")],
    Discriminator(_tag),
]


class Loss(Section):
    """L = method · L_method + alignment · L_inv + uniformity · L_unif + λ · L_equi.

    The defaults are the method with CARE's term; the others are for ablations (paper, Fig. 10).
    """

    method: NonNegative = Field(1.0, description="of the method's own loss, such as InfoNCE")
    alignment: NonNegative = 0.0
    uniformity: NonNegative = 0.0
    form: Literal["paper", "official"] = Field(
        "paper",
        description="of the two terms; official: −cos/τ, and log Σ of the negatives without 1/n",
    )
    temperature: Positive = Field(0.5, description="τ in the official form of the two terms")
    negatives: Literal["global", "local"] = Field(
        "global", description="compare the images of all ranks, or each rank its own"
    )


class Equivariance(Section):
    """CARE's term: one pair of augmentations a split (paper, Algorithm 1). Weight 0: left out."""

    weight: NonNegative = 0.0
    splits: int = Field(
        16, ge=1, description="pairs of augmentations a step, over the global batch"
    )
    batch: int | None = Field(
        None, ge=1, description="images of the global batch that feed the term; default: all"
    )
    shared_by: Literal["split", "step"] | Annotated[int, Field(ge=1)] = Field(
        "split",
        description="which images share a pair: a split, all of a step, or so many of a rank's",
    )
    crop: bool = Field(True, description="whether the pair's augmentations include the crop")
