"""What README.md and docs/ show is so: commands run or parse, specs load, Python runs."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import documented
import pytest
import torch
from documented import DOCS, PAGES, ROOT, Block, Shown, blocks, commands, contexts, invoke
from finished import finish, probe_result

import care_core
from care_core.data import imagenet100
from care_core.data.layout import FILES
from care_core.files import write_json
from care_core.spec import PretrainSpec, objectives, probe_kinds
from care_core.spec.facts import DATASETS
from carectl import errors, specs
from carectl.plan import Planner
from carectl.runs import Run, State

COMMANDS = commands()
KNOWN = contexts()

#: Why commands are parsed alone, and how many of them.
NEEDS = {
    "the network": 3,
    "your files": 4,  # ImageNet, structures, images, an official checkpoint
    "a terminal": 2,  # servers
    "minutes": 3,  # make demo and make test
    "SLURM": 1,
}

QUICK = ["data.image_size=8", "model.width=4", "training.epochs=1", "monitor.every_epochs=0"]


def _settled(spec: PretrainSpec, project: Path, trained: bool = False) -> Run:
    """A run of a project that is done, with weights or only looking so."""
    planned = Planner(project / "runs", project / "data").pretrain(spec)
    run = Run(project / "runs" / planned.run_id)
    result: dict[str, Any] = {"kind": "pretrain", "seconds": 50.0, "steps": 330}
    if trained:
        result = care_core.pretrain(spec, run.path, threads=1)
    finish(planned, project / "runs", result)
    return run


def _attempted(run: Run, **notes: str) -> None:
    attempt = run.new_attempt()
    (attempt / "1_0_log.out").write_text("rank 0 of 1\n")
    for kind, message in notes.items():
        write_json(attempt / f"{kind}.json", {"message": message, "at": 0})


@pytest.fixture(scope="module")
def shown_project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A project in which what the pages show can be done.

    One pretraining is done, with weights, and is probed; three look done; one failed; the datasets'
    files are there, empty; and there is a SLURM that answers nothing.
    """
    from PIL import Image

    project = tmp_path_factory.mktemp("shown")
    (project / "mlflow.db").write_bytes(empty_store.read_bytes())
    for folder, names in FILES.values():
        for name in names:
            path = project / "data" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if "." in name or name != "jpg" else path.mkdir()
    for split in ("train", "val"):
        for wnid in imagenet100.WNIDS:
            (project / "data/imagenet100" / split / wnid).mkdir(parents=True)
            (project / "data/imagenet100" / split / wnid / "a.jpg").touch()
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (project / "data/mine" / part).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(project / "data/mine" / part / "0.jpg")
    care = specs.load(specs.find("digits/care-simclr"), QUICK)
    done = _settled(care, project, trained=True)
    _attempted(done)
    (weights,) = (done.path / "checkpoints").glob("*.pt")
    (project / "best_checkpoint.pt").write_bytes(weights.read_bytes())
    planner = Planner(project / "runs", project / "data")
    finish(planner.probe(care, done), project / "runs", probe_result([96.0, 96.5, 97.0]))
    _settled(specs.load(specs.find("digits/simclr"), QUICK), project)
    failed = _settled(specs.load(specs.find("digits/moco"), QUICK), project)
    (failed.path / "result.json").unlink()
    _attempted(failed, error="it was made to fail")
    heavier = [*QUICK, "name=mine/heavier", "equivariance.weight=0.3"]
    _settled(specs.load(specs.find("digits/care-simclr"), heavier), project)
    _settled(specs.load(specs.find("pointcloud/equivariance-uniformity")), project)
    for name in ("sbatch", "srun", "squeue", "scancel"):
        (project / "bin").mkdir(exist_ok=True)
        (project / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (project / "bin" / name).chmod(0o755)
    return project


@pytest.fixture
def inside(shown_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shown_project)
    monkeypatch.setenv("PATH", f"{shown_project}/bin:{os.environ['PATH']}")
    return shown_project


def _write_specs(page: str, project: Path) -> None:
    """mine.yaml is the first whole spec that a page shows."""
    for block in blocks("yaml"):
        if block.page.name == page and re.search(r"^name:", block.text, re.M):
            (project / "mine.yaml").write_text(block.text)
            return


@pytest.mark.parametrize("shown", COMMANDS, ids=lambda shown: shown.place)
def test_a_command_that_is_shown_runs_or_parses(
    shown: Shown, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "mine.yaml" in shown.words:
        _write_specs(shown.page, inside)
    documented.attempt(shown, KNOWN, monkeypatch)


def test_what_is_only_parsed_is_marked_where_it_stands_and_counted() -> None:
    assert Counter(shown.needs for shown in COMMANDS if shown.needs) == NEEDS
    run = [s for s in COMMANDS if not s.needs and s.words[0] == "carectl"]
    assert len(run) > 2 * sum(NEEDS.values())


def test_a_wrong_option_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Shown("here", "here", ["carectl", "eval", "RUN", "--prob", "linear"], "SLURM")
    with pytest.raises(Exception, match="No such option"):
        documented.attempt(wrong, KNOWN, monkeypatch)


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_commands_within_sentences_exist_with_their_options(page: Path) -> None:
    for line in re.findall(
        r"`carectl ([^`]*)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    ):
        words = line.split()
        name = " ".join(words[: 2 if words[0] in ("spec", "data") else 1])
        assert name in KNOWN or name == "NAME", f"{page.name}: {line}"
        if name in KNOWN:
            options = {o for p in KNOWN[name].command.params for o in p.opts}
            assert {w for w in words if re.fullmatch("--?[a-z-]+", w)} <= options, line


def _fragments(block: Block) -> Iterator[str]:
    """A block, cut where a section is said again: alternatives."""
    part: list[str] = []
    seen: set[str] = set()
    for line in block.text.splitlines(keepends=True):
        key = line.split(":")[0]
        if re.match(r"\w+:", line) and key in seen:
            yield "".join(part)
            part, seen = [], set()
        if re.match(r"\w+:", line):
            seen.add(key)
        part.append(line)
    yield "".join(part)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_yaml_that_is_shown_is_a_spec_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    for number, text in enumerate(_fragments(block)):
        whole = re.search(r"^name:", text, re.M)
        path = tmp_path / f"{number}.yaml"
        path.write_text(text if whole else f"name: shown\ndata: {{name: digits}}\n{text}")
        assert specs.load(path).name


def _python() -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in blocks("python"):
        found.setdefault(block.page.name, []).append(block)
    return found


@pytest.mark.parametrize(("page", "shown"), _python().items(), ids=_python())
def test_python_that_is_shown_runs_from_top_to_bottom(
    page: str, shown: list[Block], inside: Path
) -> None:
    if any("NAME.safetensors" in block.text for block in shown):
        import torchvision
        from safetensors.torch import save_file

        model = torchvision.models.resnet50()
        del model.fc
        save_file(model.state_dict(), "NAME.safetensors")
    torch.manual_seed(0)
    shorter = ('"epochs": 3', '"epochs": 1')
    names: dict[str, Any] = {"__name__": page}
    for block in shown:
        text = "\n" * (block.line - 1) + block.text.replace(*shorter)
        exec(compile(text, str(block.page), "exec"), names)


def test_commands_md_is_what_the_command_line_says() -> None:
    page = runpy.run_path(str(DOCS / "commands.py"))["page"]()
    assert (DOCS / "commands.md").read_text() == page, "python docs/commands.py > docs/commands.md"


ASKED = {
    "pretrain": [["digits/simclr", "--dry-run"]],
    "eval": [["RUN", "--dry-run"]],
    "reproduce": [["table1", "--profile", "digits", "--dry-run"]],
    "report": [["all", "--profile", "digits-all", "--only", "BYOL"]],
    "status": [[]],
    "cancel": [["RUN"]],
    "retry": [["--failed", "--dry-run"]],
    "export": [["RUN"]],
    "spec check": [["digits/simclr"]],
    "spec show": [["digits/simclr"]],
    "spec diff": [["digits/simclr", "RUN"]],
    "data list": [[]],
}
#: Keys that a dry run has not, and what needs something that is not here: read in the source.
WRITTEN = {"pretrain", "eval", "reproduce", "import", "bench", "retry", "doctor"}


def _emitted() -> set[str]:
    """The keywords of every `output.emit(…)`, and the keys of dictionaries spread into one."""
    found = set()
    for path in (ROOT / "carectl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "emit":
                found |= {word.arg for word in node.keywords if word.arg}
                spread = [word.value for word in node.keywords if not word.arg]
                inner = [n for each in spread for n in ast.walk(each) if isinstance(n, ast.Dict)]
                found |= {k.value for n in inner for k in n.keys if isinstance(k, ast.Constant)}
    return found


def test_the_json_of_each_command_has_the_keys_that_its_page_lists(inside: Path) -> None:
    listed = runpy.run_path(str(DOCS / "commands.py"))["JSON"]
    assert set(listed) == set(ASKED) | WRITTEN
    emitted = _emitted() | {"profile", "report", "reports", "documents"}
    for name, keys in listed.items():
        seen: set[str] = set()
        for given in ASKED.get(name, []):
            words = ["digits-care-simclr" if word == "RUN" else word for word in given]
            _, out, wrong = invoke([*name.split(), *words, "--json"])
            seen |= set(json.loads(out or "{}")) - {"version", "command"}
            assert seen, wrong
        assert seen <= set(keys), name
        assert set(keys) <= (emitted if name in WRITTEN else seen), name


def _first_cells(page: str) -> set[str]:
    return set(re.findall(r"^\| `?([\w-]+)`? \|", (DOCS / page).read_text(), re.M))


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("runs.md", get_args(State)),
        ("runs.md", [str(v) for k, v in vars(errors).items() if k.isupper()]),
        ("methods.md", [each.__args__[0].model_fields["name"].default
                        for each in get_args(get_args(objectives.Method)[0])]),
        ("datasets.md", DATASETS),
        ("science.md", probe_kinds()),
    ],
    ids=["states", "exit codes", "methods", "datasets", "probes"],
)  # fmt: skip
def test_a_table_of_a_page_names_all_that_there_is(page: str, names: Iterable[str]) -> None:
    assert set(names) <= _first_cells(page)


def _anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_the_site_has_every_page(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://arxiv.org/"):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in _anchors(target.read_text()), f"{page.name}: {link}"
        inside = page.parent != DOCS or target.resolve().is_relative_to(DOCS)
        assert inside, f"{page.name}: {link} is not in the site"
    if page.parent == DOCS:
        assert f": {page.name}\n" in (ROOT / "mkdocs.yml").read_text()


def test_the_site_names_only_pages_that_there_are() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    named = re.findall(r": (\w+\.md)$", nav, re.M)
    assert sorted(named) == sorted(page.name for page in PAGES[1:])
