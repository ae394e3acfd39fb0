"""Check the prose: Markdown, docstrings, comments, messages and names, against `prose.toml`.

``python tools/prose.py [PATH ...]`` (without arguments: the whole project) prints one line for each
word that the project does not use, and exits with 1 if there is one. ``--long`` also lists
sentences that are too long.

Why not a linter from a registry: Vale downloads its program from outside of PyPI and npm, textlint
needs Node in a Python project, and proselint takes no rules from a file. None of them reads error
messages or names.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parent.parent
CONFIG = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
RULES = [
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), advice)
    for words, advice in CONFIG["instead"].items()
]
CODE = re.compile(r"``.*?``|`[^`]*`|<[^>]*>|\]\([^)]*\)|https?://\S+|\$[^$]*\$", re.DOTALL)
CODE_BLOCK = re.compile(r"^(```+|~~~+)[^\n]*\n.*?^\1 *$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^ *>>> .*?(?=\n *\n|\Z)", re.MULTILINE | re.DOTALL)
Text = tuple[int, str]


def blanked(pattern: re.Pattern[str], text: str) -> str:
    """Return the text with code and examples replaced by a word; lines keep their numbers."""
    return pattern.sub(lambda match: "CODE" + "\n" * match[0].count("\n"), text)


def markdown(source: str) -> Iterator[Text]:
    """Yield the line and text of a page, without its code."""
    yield 1, blanked(CODE, blanked(CODE_BLOCK, source))


def python(source: str) -> Iterator[Text]:
    """Yield the line and text of docstrings, comments, messages and names of a module."""
    comment, row = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != row + 1 and comment:
                yield row - len(comment) + 1, blanked(CODE, "\n".join(comment))
                comment = []
            comment.append(token.string.lstrip("#: "))
            row = token.start[0]
    if comment:
        yield row - len(comment) + 1, blanked(CODE, "\n".join(comment))
    within = set[int]()  # the parts of an f-string, which `ast.walk` visits after it
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, re.sub(r"_+|(?<=[a-z])(?=[A-Z])", " ", node.name)
        elif isinstance(node, ast.JoinedStr):
            within.update(map(id, node.values))
            parts = (v.value if isinstance(v, ast.Constant) else "CODE" for v in node.values)
            yield node.lineno, blanked(CODE, "".join(map(str, parts)))
        elif is_prose(node) and id(node) not in within:
            yield node.lineno, blanked(CODE, blanked(EXAMPLE, node.value))


def is_prose(node: ast.AST) -> TypeGuard[ast.Constant]:
    """Return whether this is a string of three words or more."""
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and node.value.count(" ") > 1


def long_sentences(text: str) -> Iterator[Text]:
    """Yield the offset and the words of sentences that are too long; tables have none."""
    for block in re.finditer(r"(?:(?!^ *[|#]).+\n?)+", text, re.MULTILINE):
        for sentence in re.finditer(r".+?(?:[.!?;:](?=\s)|\Z|\n(?= *[-*] ))", block[0], re.DOTALL):
            if len(sentence[0].split()) > CONFIG["sentence_words"]:
                yield block.start() + sentence.start(), " ".join(sentence[0].split())


def findings(path: Path, *, long: bool) -> Iterator[str]:
    """Yield one line for each finding in a file."""
    texts = markdown if path.suffix == ".md" else python
    name = path.relative_to(ROOT)
    for advice_for, advice in RULES if path.suffix == ".py" else []:
        if advice_for.search(path.stem.replace("_", " ")):
            yield f"{name}:1: name of the module: write {advice}"
    for line, text in texts(path.read_text()):
        found = [
            (m.start(), f"{m[0]!r}: write {say}") for r, say in RULES for m in r.finditer(text)
        ]
        if long:
            found += [(at, f"long sentence: {words[:60]}") for at, words in long_sentences(text)]
        for at, message in sorted(found):
            yield f"{name}:{line + text.count(chr(10), 0, at)}: {message}"


def main(arguments: list[str]) -> int:
    """Print what is found in the files named, or in all; return the exit code."""
    long = "--long" in arguments
    named = [str(Path(a).resolve().relative_to(ROOT)) for a in arguments if a != "--long"]
    tracked = ["git", "ls-files", "-co", "--exclude-standard", "--", *named]
    listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True)
    skipped = tuple(CONFIG["not_checked"])
    files = [
        ROOT / name
        for name in listed.stdout.splitlines()
        if name.endswith((".md", ".py")) and not name.startswith(skipped) and (ROOT / name).exists()
    ]
    lines = [line for path in sorted(files) for line in findings(path, long=long)]
    print("\n".join(lines) or f"prose: {len(files)} files are clean")
    return 1 if any(": long sentence: " not in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
