"""Frozen features: the encoder in eval mode on images that are not augmented, computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from care_core import augment
from care_core.facts import DATASETS
from care_core.models import Encoder
from care_core.spec import PretrainSpec, ProbeSpec


@torch.inference_mode()
def extract(
    encoder: Encoder, pixels: Tensor, spec: PretrainSpec | ProbeSpec, batch: int = 512
) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) uint8 → backbone features (N, n) and unit projections (N, d), fp32.

    The encoder's training mode is restored afterwards; its statistics are not touched.
    """
    facts = DATASETS[spec.data.name]
    size = spec.data.image_size or facts.image_size
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    features, projections = [], []
    for part in pixels.split(batch):
        images = augment.normalize(part.to(device), size=size, mean=facts.mean, std=facts.std)
        found = encoder.backbone(images)
        features.append(found.float())
        projections.append(encoder.project(found))
    encoder.train(was_training)
    return torch.cat(features), torch.cat(projections)
