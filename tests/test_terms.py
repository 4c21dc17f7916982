"""What all methods share: views and pair through the network, and the terms' weighted sum."""

from __future__ import annotations

import copy

import pytest
import torch
from lightly.loss import NTXentLoss
from methodical import BATCH, method_of, rows, step
from torch.nn import functional as F

from care_core import losses
from care_core.methods import Step


def care(number: int = 0) -> Step:
    """A step with a pair, and images so unlike that it matters which go together."""
    given = step(number)
    views = [view * (n + 1) + n for n, view in enumerate(given.views)]
    return given._replace(views=views, pair=[4 * view - 3 for view in step(number + 9).views])


@pytest.mark.parametrize("how", ["separate", "together"])
def test_a_method_passes_its_views_and_the_pair_as_the_spec_says(how: str) -> None:
    term = {"weight": 0.5, "splits": 4}
    method, given = method_of("simclr", equivariance=term, bn={"views": how}), care()
    encoder, images = copy.deepcopy(method.encoder), [*given.views, *given.pair]
    if how == "separate":
        z = [encoder(view) for view in images]
    else:
        z = list(encoder(torch.cat(images)).chunk(4))
    total = sum(
        (a @ a.T - b @ b.T).square().sum() * 2 / BATCH
        for a, b in zip(z[2].chunk(4), z[3].chunk(4), strict=True)
    )
    (NTXentLoss(temperature=0.2)(z[0], z[1]) + 0.5 * total).backward()
    loss, terms = method(given)
    loss.backward()
    assert float(terms["equivariance"]) == pytest.approx(float(total.detach()), rel=1e-6)
    for (name, ours), theirs in zip(
        method.encoder.named_parameters(), encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-10, msg=name)
    for name, value in method.encoder.named_buffers():
        torch.testing.assert_close(value, encoder.get_buffer(name), msg=name)


def test_a_method_with_replicas_is_data_parallel() -> None:
    """Chunks through copies of the network, the loss of all rows, the first copy's statistics."""
    method, given = method_of("simclr", bn={"replicas": 2}), care()._replace(pair=[])
    copies = [copy.deepcopy(method_of("simclr").encoder) for _ in range(2)]
    z = [
        torch.cat([c(part) for c, part in zip(copies, view.chunk(2), strict=True)])
        for view in given.views
    ]
    wanted = NTXentLoss(temperature=0.2)(*z)
    wanted.backward()
    loss, _ = method(given)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    for name, ours in method.encoder.named_parameters():
        total = sum(c.get_parameter(name).grad for c in copies)
        torch.testing.assert_close(ours.grad, total, rtol=1e-6, atol=1e-10, msg=name)
    for name, value in method.encoder.named_buffers():
        torch.testing.assert_close(value, copies[0].get_buffer(name), msg=name)


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("name", ["simclr", "moco", "byol"])
def test_any_weights_of_the_terms_make_up_the_loss(name: str, form: str) -> None:
    """Each weight multiplies its own term, of the embeddings of both views."""
    given = step()
    method = method_of(name)
    plain, _ = copy.deepcopy(method)(given)
    second = method.keys if name == "moco" else method.encoder
    z1 = F.normalize(rows(copy.deepcopy(method.encoder), given.views[0]), dim=1).detach()
    z2 = F.normalize(rows(copy.deepcopy(second), given.views[1]), dim=1).detach()
    if form == "paper":
        wanted = {
            "alignment": (z1 - z2).norm(dim=1).mean(),
            "uniformity": losses.uniformity(z1)
            if name == "moco"  # keys are no function of what is trained
            else (losses.uniformity(z1) + losses.uniformity(z2)) / 2,
        }
    else:
        wanted = {
            "alignment": losses.alignment_official(z1, z2, 0.3),
            "uniformity": losses.uniformity_official(z1, z2, 0.3),
        }
    for weights in ({"alignment": 0.4}, {"uniformity": 0.6}, {"alignment": 2, "uniformity": 3}):
        for own in (0.0, 0.5):
            loss = {"method": own, "form": form, "temperature": 0.3, **weights}
            found, terms = method_of(name, loss=loss)(given)
            total = own * plain.item() + sum(w * float(wanted[k]) for k, w in weights.items())
            assert found.item() == pytest.approx(total, rel=1e-5)
            for key in weights:
                assert float(terms[key]) == pytest.approx(float(wanted[key]), rel=1e-5)
