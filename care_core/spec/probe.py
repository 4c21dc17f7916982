"""An evaluation: which encoder, measured how, on which images."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from pydantic import Field, model_validator

from care_core.spec import clouds as cloud_spec
from care_core.spec.probe_sections import Probe
from care_core.spec.sections import Augment, Channels, Data, Section

#: What an evaluation measures unless it is asked otherwise; `probe_kinds` are all.
USUAL_KINDS: Final = ("linear", "knn", "geometry")


def probe_kinds() -> list[str]:
    """What an evaluation can measure, in the order in which it does."""
    each, _ = get_args(ProbeSpec.model_fields["kinds"].annotation)
    return list(get_args(each))


class ProbeSpec(Section):
    """One evaluation: which encoder, of which epoch, measured how and on which images."""

    name: str
    source: str = Field(
        description="sha256 of the pretrain run's identity, or of a checkpoint file"
    )
    epoch: int | None = Field(None, ge=0, description="default: the last")
    kinds: tuple[Literal["linear", "knn", "geometry", "colour", "composition", "axis"], ...] = (
        USUAL_KINDS
    )
    data: Data
    pretrained_on: Data | None = Field(None, description="default: the same as data")
    augment: Augment
    probe: Probe

    @model_validator(mode="after")
    def _measurable(self) -> ProbeSpec:
        if problems := list(cloud_spec.unmeasurable(self.data, self.kinds)):
            raise ValueError("\n".join(problems))
        return self

    @property
    def image_size(self) -> int:
        """Pixels a side (of clouds points): what data says, else what the encoder trained on."""
        return self.data.image_size or self.data.points or (self.pretrained_on or self.data).size

    @property
    def normalization(self) -> tuple[Channels, Channels]:
        """What the encoder's inputs were normalised by when it was trained."""
        return (self.pretrained_on or self.data).normalization

    def determining(self) -> dict[str, Any]:
        """The part that determines the result: what an evaluation's identity is made of."""
        fields = self.model_dump(mode="json", exclude={"name", "data", "pretrained_on"})
        fields["data"] = {"name": self.data.name, "image_size": self.image_size}
        fields["data"]["normalization"] = [list(part) for part in self.normalization]
        # what is not measured must not make another run
        for kind in set(probe_kinds()) - set(self.kinds):
            del fields["probe"][kind]
        augmented = self.probe.linear.augmentation != "none" and "linear" in self.kinds
        moved = {"geometry", "colour", "composition"} & set(self.kinds)
        if self.data.clouds or not (moved or augmented):
            del fields["augment"]
        if self.data.clouds:
            fields["data"] = self.data.of_size(self.image_size).determining()
        del fields["probe"]["data"]
        return fields
