"""ImageNet100: 100 classes of ImageNet-1k, built by links from a local copy of it. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from care_core.data.listing import class_folders, image_files
from care_core.errors import DataError
from care_core.files import require_writable, storage_error

FOLDER = "imagenet100"

#: The WordNet ids of the classes, in the order of their labels.
WNIDS = tuple(
    """
    n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 n01978455
    n01980166 n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 n02087046 n02089867
    n02089973 n02090622 n02091831 n02093428 n02099849 n02100583 n02104029 n02105505 n02106550
    n02107142 n02108089 n02109047 n02113799 n02113978 n02114855 n02116738 n02119022 n02123045
    n02138441 n02172182 n02231487 n02259212 n02326432 n02396427 n02483362 n02488291 n02701002
    n02788148 n02804414 n02859443 n02869837 n02877765 n02974003 n03017168 n03032252 n03062245
    n03085013 n03259280 n03379051 n03424325 n03492542 n03494278 n03530642 n03584829 n03594734
    n03637318 n03642806 n03764736 n03775546 n03777754 n03785016 n03787032 n03794056 n03837869
    n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531 n04127249
    n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 n04485082 n04493381
    n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 n07831146 n07836838 n13037406
    n13040303
    """.split()  # noqa: SIM905
)

#: Images in all of train/; of one class there, at most and at least; of one class in val/.
TRAIN_IMAGES, MAX_A_CLASS, MIN_A_CLASS, VAL_A_CLASS = 126_689, 1300, 732, 50

Counts = Mapping[str, Mapping[str, int]]  #: split → class → images


def missing(root: Path) -> str:
    """Which class folders are not there, in a few words; nothing, if all are."""
    if not root.is_dir():
        return f"{root} is not there"
    lacking = [
        f"{split}/{name}"
        for split in ("train", "val")
        for name in WNIDS
        if not (root / split / name).is_dir()
    ]
    if not lacking:
        return ""
    more = f" and {len(lacking) - 3} more of 200 class folders" if len(lacking) > 3 else ""
    return f"{root} lacks {', '.join(lacking[:3])}{more}"


def prepare(source: Path | None, data_dir: Path, progress: Callable[[str], None]) -> None:
    """Link the class folders of a local ImageNet into `data_dir`/imagenet100.

    Each of the 200 links leads to a class folder's absolute place. What is linked already stays,
    a link to elsewhere is replaced, and a folder of one's own in a link's place stays. Nothing is
    linked before all classes are found, and a second call finishes what a killed one began.

    Args:
        source: has train/ and val/ of class folders.

    Raises:
        DataError: a class is missing or empty; names each.
        StorageError: `data_dir` is not writable.
    """
    root = data_dir / FOLDER
    if source is None:
        if lacking := missing(root):
            raise DataError(
                f"imagenet100: {lacking}; `carectl data prepare imagenet100 --imagenet DIR` "
                "builds it from a local ImageNet with train/ and val/ of class folders"
            )
        progress(f"imagenet100: already in {root}")
        return
    require_writable(data_dir)
    problems, _ = judge(source, counted(source))
    if problems:
        raise DataError("\n".join(problems))
    progress(f"imagenet100: linking 200 class folders of {source} into {root}")
    for split in ("train", "val"):
        try:
            (root / split).mkdir(parents=True, exist_ok=True)
            for name in WNIDS:
                _link(root / split / name, Path(os.path.abspath(source / split / name)))  # noqa: PTH100
        except OSError as error:
            raise storage_error(root / split / "links", error) from error


def counted(root: Path) -> Counts:
    """How many images each of the 100 classes has; one that is not there is left out."""
    found: dict[str, dict[str, int]] = {}
    for split in ("train", "val"):
        there = set(class_folders(root / split)) if (root / split).is_dir() else set()
        found[split] = {
            name: len(image_files(root / split / name)[0]) for name in WNIDS if name in there
        }
    return found


def judge(root: Path, counts: Counts) -> tuple[list[str], list[str]]:
    """What makes a copy useless, and what is short of the full ImageNet but can be used."""
    return list(_problems(root, counts)), list(_short(root, counts))


def _problems(root: Path, counts: Counts) -> Iterator[str]:
    for split, classes in counts.items():
        lacking = [name for name in WNIDS if name not in classes]
        if len(lacking) == len(WNIDS):
            yield f"{root / split}: {_why_none(root / split)}"
        elif lacking:
            yield f"{root / split}: {len(lacking)} of 100 classes missing: {', '.join(lacking)}"
        if empty := [name for name, count in classes.items() if count == 0]:
            yield f"{root / split}: {len(empty)} of 100 classes empty: {', '.join(empty)}"


def _why_none(folder: Path) -> str:
    if not folder.is_dir():
        return "is not there; it has to be a folder of class folders such as n01558993"
    images, _ = image_files(folder)
    if images:
        return (
            f"{len(images)} images lie in it without class folders; sort them into folders such "
            "as n01558993 first (ImageNet's devkit says which image is of which class)"
        )
    return "has none of the 100 class folders, such as n01558993"


def _short(root: Path, counts: Counts) -> Iterator[str]:
    train, val = counts["train"], counts["val"]
    if few := {name: count for name, count in train.items() if 0 < count < MIN_A_CLASS}:
        yield (
            f"{root / 'train'}: {len(few)} of 100 classes short (ImageNet has at least "
            f"{MIN_A_CLASS} images of each): {_listed(few)}"
        )
    if few := {name: count for name, count in val.items() if 0 < count < VAL_A_CLASS}:
        short = f"{len(few)} of 100 classes short ({VAL_A_CLASS} images each)"
        yield f"{root / 'val'}: {short}: {_listed(few)}"
    for split, most in (("train", MAX_A_CLASS), ("val", VAL_A_CLASS)):
        if many := {name: count for name, count in counts[split].items() if count > most}:
            yield f"{root / split}: more than the {most} images of ImageNet: {_listed(many)}"
    if (total := sum(train.values())) != TRAIN_IMAGES:
        below = {name: count for name, count in train.items() if MIN_A_CLASS <= count < MAX_A_CLASS}
        among = f"; what lacks may be of the classes below {MAX_A_CLASS}: {_listed(below)}"
        yield (
            f"{root / 'train'}: {total} images in all, ImageNet has {TRAIN_IMAGES} of these classes"
            + (among if total < TRAIN_IMAGES and below else "")
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _link(place: Path, target: Path) -> None:
    """Make `place` a link to `target`, unless it is a folder, or leads there already."""
    if place.exists() and (not place.is_symlink() or place.samefile(target)):
        return
    aside = place.with_name(f".{place.name}.tmp")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target, target_is_directory=True)
    aside.replace(place)
