"""What the shell is offered on TAB, and that nothing breaks a prompt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Project

from carectl import completion, options, scaling, specs
from carectl.app import main
from carectl.targets import MODULES

IDS = ("digits-care-simclr-s0-0123456789ab", "probe-digits-care-simclr-ba9876543210")


@pytest.fixture
def offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> object:
    """What bash is answered to words, of which the last is under the cursor."""
    monkeypatch.chdir(tmp_path)
    plan = [{"run": name, "sha256": name[-12:] * 5, "kind": "pretrain"} for name in IDS]
    scaling.fill(tmp_path / "some" / "runs", plan)
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "weights.pt").write_text("")

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv(completion.ASKED, "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(("carectl", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.delenv("_CARECTL_SETTLED", raising=False)
        monkeypatch.setattr(sys, "argv", ["carectl"])
        with pytest.raises(SystemExit):
            main()
        told = capsys.readouterr()
        assert told.err == ""
        return told.out.split()

    return ask


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["stat"], {"status"}),
        (["logs", "--runs-dir", "some/runs", ""], {*IDS, "digits/care-simclr"}),
        (["logs", "--runs-dir", "=", "some/runs", "digits/"], {"digits/care-simclr"}),
        (["logs", "--runs-dir", "some/runs", "some/runs/p"], {f"some/runs/{IDS[1]}"}),
        (["eval", "we"], {"weights.pt"}),
        (["pretrain", ""], {"mine.yaml", "cifar10/care-simclr"}),
        (["pretrain", "-o", "seed", "=", "1", "digits/mo"], {"digits/moco"}),
        (["pretrain", "x", "-o", "equi"], {"equivariance."}),
        (["pretrain", "x", "-o", "equivariance."], {"equivariance.weight=", "equivariance.crop="}),
        (["pretrain", "x", "-o", "optimizer.name", "="], {"adam", "sgd", "lars"}),
        (["pretrain", "x", "--override", "=", "bn.sync", "=", "t"], {"true"}),
        (["pretrain", "x", "-o", "method.name", "=", "mo"], {"moco"}),
        (["pretrain", "x", "-o", "model.stem", "="], {"cifar", "imagenet", "null"}),
        (["pretrain", "x", "-o", "equivariance.splits", "="], {"16"}),
        (["eval", "--probe", "co"], {"colour", "composition"}),
        (["reproduce", "fig1"], {"fig10"}),
        (["reproduce", "table1", "--profile", "d"], {"digits", "digits-all"}),
        (["data", "verify", "st"], {"stl10"}),
        (["status", "--state", "f"], {"failed"}),
        (["bench", "--precision", "b"], {"bf16"}),
    ],
)
def test_words_that_fit_are_offered(offered: object, words: list[str], some: set[str]) -> None:
    found = offered(*words)  # type: ignore[operator]
    assert some <= set(found)
    if words[-1].strip("="):
        assert all(word.startswith(words[-1]) for word in found)


def test_nothing_wrong_prints_into_the_prompt(offered: object, tmp_path: Path) -> None:
    (tmp_path / "some/runs" / IDS[0] / "spec.json").write_text("{broken")
    assert IDS[0] in offered("status", "--runs-dir", "some/runs", "")  # type: ignore[operator]
    assert offered("status", "--runs-dir", "mine.yaml", "x") == []  # type: ignore[operator]
    assert offered("pretrain", "x", "-o", "no.such.key", "=") == []  # type: ignore[operator]


def test_profiles_that_are_offered_are_those_that_targets_have() -> None:
    found = {name for target in MODULES for name in specs.load_grid(specs.find(target)).profiles}
    assert found == set(options.PROFILES.split("|"))


SHELLS = {
    "bash": "source script; COMP_WORDS=(carectl pretrain x -o bn); COMP_CWORD=4; "
    '_carectl_completion carectl 2>/dev/null; echo "${COMPREPLY[@]}"',
    "fish": "source script; complete -C 'carectl pretrain x -o bn'",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_by_the_script_that_is_shown(tmp_path: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not here")
    project = Project(tmp_path)
    here = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = project.carectl("--show-completion", shell, **here).stdout
    (project.path / "script").write_text(shown)
    there = project.path / "carectl"
    there.write_text(f"#!{sys.executable}\nfrom carectl.app import main\nmain()\n")
    there.chmod(0o755)
    path = f"{project.path}:{os.environ['PATH']}"
    done = subprocess.run([shell, "-c", SHELLS[shell]], cwd=project.path, text=True, timeout=60,
                          env={**os.environ, "PATH": path}, capture_output=True)  # fmt: skip
    assert (done.stdout.split()[0], done.stderr) == ("bn.", "")
