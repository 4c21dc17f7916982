"""Words without the secrets in them: what is written to a run, a report or a terminal goes here.

Three things are known: credentials within an address, values whose name says that they are secret,
and the values of such variables in this process's environment, wherever they turn up. What has
neither a telling name nor a known shape is not found.
"""

from __future__ import annotations

import functools
import os
import re
from urllib import parse

MASK = "***"

_NAME = (
    r"(?:password|passwd|passphrase|pwd|secret|token|credentials?|authorization|(?-i:(?<=_)PASS)|"
    r"(?:api|access|account|private|secret|session|encryption)[_-]?key)"
)
_NAMED = re.compile(rf"(?:^|[\W_]|(?<=[a-z])(?=[A-Z])){_NAME}$", re.IGNORECASE)
#: What may be long is bounded: a received file may hold a megabyte of anything, and from none of
#: its places is it to be searched to its end.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ of an address; a password may hold @ or, as SQLAlchemy allows, a slash
    (re.compile(r"://[^\s/'\"<>]{0,1000}@"), f"://{MASK}@"),
    (re.compile(r"://[^\s:/@'\"<>]{0,200}:[^\s@'\"<>]{0,1000}@"), f"://{MASK}@"),
    # Authorization: Bearer abc, and with whatever other scheme
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(authorization:\s*[\w-]+\s+)[^\s\"',;]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    # the signature that makes an address of a cloud's store a key
    (
        re.compile(r"([?&](?:x-(?:amz|goog)-signature|sig)=)[^&\s'\"<>]+", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    # password=abc, as in a shell, a query or an option; $VAR is no secret itself
    (
        re.compile(
            rf"({_NAME}=)(?!\$|`|[\"']?\$)([a-z\\]{{0,2}}(?:\"[^\"]+\"|'[^']+')|[^\s&;,'\")]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # password: "abc", as in YAML, JSON and code; a name or a call behind it is no secret
    (
        re.compile(
            rf"({_NAME}[\"']?\s*[:=]\s*[a-z]{{0,2}})([\"'])(?!\$)[^\"']{{4,}}\2", re.IGNORECASE
        ),
        rf"\1\2{MASK}\2",
    ),
    (
        re.compile(rf"({_NAME}\s*[:=]\s*)(?!\$)[\w+/=~!#%-]{{8,}}(?![\w.(\[])", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    # --password abc
    (re.compile(rf"((?<![\w-])--[\w-]{{0,60}}{_NAME}\s+)[^\s-]\S*", re.IGNORECASE), rf"\1{MASK}"),
    # what looks like nothing else
    (
        re.compile(
            r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|xapp-|dapi|pypi-|npm_|AIza|"
            r"ya29\.)[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|"
            r"\beyJ[\w-]{8,2000}\.[\w-]{8,8000}\.[\w-]{8,}"
        ),
        MASK,
    ),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        MASK,
    ),
)


def text(words: str) -> str:
    """The words with every secret that is recognised replaced by three stars."""
    for value in _environment():
        words = words.replace(value, MASK)
    for pattern, instead in _PATTERNS:
        words = pattern.sub(instead, words)
    return words


def value(name: str, words: str) -> str:
    """A named value: nothing of it where the name says that it is secret."""
    return MASK if secret(name) else text(words)


def secret(name: str) -> bool:
    """Whether a name says that its value is secret: WANDB_API_KEY, db.password."""
    return name not in ("PWD", "OLDPWD") and bool(_NAMED.search(name))


def address(uri: str) -> str:
    """An address without user name and password; the same for any password."""
    for pattern, instead in _PATTERNS[:2]:
        uri = pattern.sub(instead, uri)
    return text(uri)


def arguments(command: list[str]) -> list[str]:
    """A command line; what follows an option such as --password is its value."""
    shown = []
    for before, word in zip(["", *command], command, strict=False):
        bare = before.startswith("--") and "=" not in before and secret(before)
        shown.append(MASK if bare else text(word))
    return shown


def _environment() -> tuple[str, ...]:
    """Values of variables with a telling name, and of what such an address holds; longest first.

    An address has them percent-encoded, and what it is asked for may name them decoded.
    """
    named = tuple(word for name, word in os.environ.items() if secret(name) and len(word) >= 6)
    return _longest(named, os.environ.get("MLFLOW_TRACKING_URI", ""))


@functools.lru_cache(maxsize=8)
def _longest(named: tuple[str, ...], uri: str) -> tuple[str, ...]:
    password = re.match(r"[^:]+://[^:/@]*:(.+)@", uri)
    found = {*named, *([password[1]] if password and len(password[1]) >= 6 else [])}
    found |= {parse.quote(word, safe="") for word in found} | {parse.unquote(x) for x in found}
    return tuple(sorted(found, key=len, reverse=True))
