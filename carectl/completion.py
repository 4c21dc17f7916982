"""What the shell is offered on TAB. It must be quick, and is silent whatever is wrong.

typer asks by an environment variable; a completer gets what is typed so far and returns words, with
a help text that zsh and fish show.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import typer

Words = list[tuple[str, str]]
C = TypeVar("C", bound=Callable[..., Words])

ASKED = "_CARECTL_COMPLETE"
_SETTLED = "_CARECTL_SETTLED"  # the part of the current word that bash will not replace
NAMES_READ = 100  # spec.json files that are opened for names at most: ten thousand would be slow


def _silent(completer: C) -> C:
    """A broken file must not print a traceback into somebody's prompt."""

    @functools.wraps(completer)
    def safe(*given: Any, **named: Any) -> Words:
        try:
            return completer(*given, **named)
        except Exception:
            return []

    return safe  # type: ignore[return-value]


@_silent
def run(ctx: typer.Context, incomplete: str) -> Words:
    """Runs by id or by name, in the folder that --runs-dir says."""
    return _runs(Path(ctx.params.get("runs_dir") or "runs"), incomplete)


@_silent
def encoder(ctx: typer.Context, incomplete: str) -> Words:
    """Runs, and checkpoint files."""
    return [*run(ctx, incomplete), *_files(incomplete, (".pt",))]


@_silent
def spec(incomplete: str) -> Words:
    """Shipped specs, and YAML files."""
    from carectl import specs

    shipped = ((name, "shipped") for name in specs.names() if "/" in name)
    return [*_files(incomplete, (".yaml", ".yml")), *shipped]


@_silent
def spec_or_run(ctx: typer.Context, incomplete: str) -> Words:
    return [*spec(incomplete), *run(ctx, incomplete)]


@_silent
def checkpoint(incomplete: str) -> Words:
    """Checkpoints of the official code."""
    return _files(incomplete, (".tar", ".pth", ".pt", ".ckpt"))


@_silent
def target(incomplete: str) -> Words:
    from carectl import targets

    return _plain([*targets.MODULES, targets.ALL])


@_silent
def dataset(incomplete: str) -> Words:
    from care_core.spec.facts import DATASETS

    return _plain(DATASETS)


@_silent
def probe_kind(incomplete: str) -> Words:
    from care_core.spec import probe_kinds

    return _plain(probe_kinds())


@_silent
def state(incomplete: str) -> Words:
    from carectl.runs import State

    return _plain(get_args(State))


def one_of(choices: str) -> Callable[[str], Words]:
    """A completer of the words of a metavar such as `local|slurm`."""

    def offer(incomplete: str) -> Words:
        return _plain(choices.split("|"))

    return offer


@_silent
def setting(incomplete: str) -> Words:
    """For -o: a section's keys first, and once a key is whole its values."""
    settled = os.environ.get(_SETTLED, "")
    key, equals, _ = (settled + incomplete).partition("=")
    found = _values(key) if equals else _keys(key)
    return [(word.removeprefix(settled), told) for word, told in found]


def prepare(environment: MutableMapping[str, str], arguments: Sequence[str]) -> None:
    """What has to be done before typer looks: bash's words joined, our own scripts put in."""
    if environment.get(ASKED) == "complete_bash":
        _join(environment)
    elif "--install-completion" in arguments or "--show-completion" in arguments:
        _own_scripts()


def _join(environment: MutableMapping[str, str]) -> None:
    """Join the words that bash takes apart at `=` and `:`, before typer reads them.

    Without it, `-o seed=1` before the cursor would be three arguments. Of the word under the cursor
    bash replaces only what comes after the last of these signs; the rest is kept as settled.
    """
    words = environment.get("COMP_WORDS", "").split("\n")
    words = words[: int(environment.get("COMP_CWORD") or 0) + 1]
    joined: list[str] = []
    glue = False
    for word in words:
        sign = bool(word) and not word.strip("=:")
        if joined and (glue or sign):
            joined[-1] += word
        else:
            joined.append(word)
        glue = sign
    current = words[-1] if words[-1].strip("=:") else ""
    settled = joined[-1][: len(joined[-1]) - len(current)]
    option: list[str] = []
    if settled.startswith("--"):
        name, _, settled = settled.partition("=")
        option = [name]
    environment[_SETTLED] = settled
    environment["COMP_WORDS"] = "\n".join([*joined[:-1], *option, current])
    environment["COMP_CWORD"] = str(len(joined[:-1]) + len(option))


def _own_scripts() -> None:
    """Let typer write scripts that add no space after `key=` and `section.`."""
    try:
        from typer import _completion_shared

        _completion_shared._completion_scripts |= {"bash": _BASH, "zsh": _ZSH}
    except (ImportError, AttributeError):  # another typer: its own scripts, with the space
        return


def _plain(words: Iterable[str]) -> Words:
    return [(word, "") for word in words]


def _runs(runs_dir: Path, incomplete: str) -> Words:
    """Ids, and the names of runs whose id looks like what is typed."""
    ids = _listing(runs_dir)
    prefix = f"{runs_dir}/"
    if incomplete.startswith(prefix):  # as a path, which the shell would complete by itself
        return _plain(f"{prefix}{run_id}" for run_id in ids)
    return _plain(dict.fromkeys([*ids, *_names(runs_dir, ids, incomplete)]))


#: What a shell may put on its line: no name from a folder may be a command, or steer a terminal.
_TYPABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def _listing(runs_dir: Path) -> list[str]:
    try:
        return sorted(filter(_TYPABLE.fullmatch, os.listdir(runs_dir)))  # noqa: PTH208
    except OSError:
        return []


def _names(runs_dir: Path, ids: list[str], incomplete: str) -> Iterator[str]:
    """The names behind ids: one file is read for all that differ in seed and hash alone."""
    from care_core.files import read_json

    looks = incomplete.replace("/", "-").lower()
    stems = {run_id.rpartition("-")[0].rpartition("-s")[0] or run_id: run_id for run_id in ids}
    alike = [run_id for run_id in stems.values() if run_id.startswith(looks)]
    for run_id in alike[:NAMES_READ]:
        name = (read_json(runs_dir / run_id / "spec.json") or {}).get("name")
        if _TYPABLE.fullmatch(str(name or "")):
            yield str(name)


def _files(incomplete: str, ends: tuple[str, ...]) -> Words:
    """Files of a kind in the folder that is typed, and in those one below it.

    No folder itself: the shell would close the word after it with a space.
    """
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    start = f"{folder}/" if incomplete.startswith(f"{folder}/") else ""
    root = Path(start) if start else Path()
    found = [*root.glob("*"), *root.glob("*/*")]
    return _plain(
        sorted(
            f"{start}{path.relative_to(root)}"
            for path in found
            if path.name.endswith(ends) and not path.relative_to(root).as_posix().startswith(".")
        )
    )


def _keys(typed: str) -> Words:
    """`section.` and `key=` of the level that is typed, each with what it is."""
    from care_core.spec import PretrainSpec
    from carectl import complaints

    above = typed.rpartition(".")[0]
    loc = tuple(above.split(".")) if above else ()
    prefix = f"{above}." if above else ""
    found = []
    for name, field in complaints.fields_at(PretrainSpec, loc).items():
        if complaints.fields_at(PretrainSpec, (*loc, name)):
            found.append((f"{prefix}{name}.", "section"))
        else:
            default = "" if field.is_required() else f"default {_yaml(field.default)}"
            told = "; ".join(text for text in (field.description, default) if text)
            found.append((f"{prefix}{name}=", told))
    return found


def _values(key: str) -> Words:
    """What a setting can be, where that can be counted; else its default."""
    from care_core.spec import PretrainSpec
    from care_core.spec.sections import BACKBONES
    from carectl import complaints

    *above, last = key.split(".")
    field = complaints.fields_at(PretrainSpec, tuple(above)).get(last)
    if field is None:
        return []
    words = complaints.variants_at(PretrainSpec, tuple(above)) if last == "name" else []
    words = words or [_yaml(value) for value in _counted(field.annotation)]
    if key == "model.backbone":
        words = list(BACKBONES)
    if not words and not field.is_required() and field.default is not None:
        words = [_yaml(field.default)]
    return [(f"{key}={word}", field.description or "") for word in dict.fromkeys(words)]


def _counted(annotation: Any) -> Iterator[Any]:
    """The values of a type that has few: of literals and truth values, and null beside them."""
    if annotation is bool:
        yield from (True, False)
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        inner = [value for part in get_args(annotation) for value in _counted(part)]
        yield from inner
        if inner and type(None) in get_args(annotation):
            yield None


def _yaml(value: Any) -> str:
    """A default as it is written behind `key=`."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_yaml, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


_BASH = """
%(complete_func)s() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
                   %(autocomplete_var)s=complete_bash "$1" 2>/dev/null ) )
    [[ ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""

_ZSH = """
#compdef %(prog_name)s

%(complete_func)s() {
  local -a whole open
  local line
  for line in "${(@f)$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" \\
      _TYPER_COMPLETE_FISH_ACTION=get-args \\
      %(autocomplete_var)s=complete_fish "${words[1]}" 2>/dev/null)}"; do
    [[ -z $line ]] && continue
    line=${line//:/\\\\:}
    if [[ ${line%%%%$'\\t'*} == *[=.] ]]; then
      open+=("${line/$'\\t'/:}")
    else
      whole+=("${line/$'\\t'/:}")
    fi
  done
  (( $#open )) && _describe 'setting' open -S ''
  (( $#whole )) && _describe 'value' whole
  (( $#open + $#whole )) || _files
}

compdef %(complete_func)s %(prog_name)s
"""
