"""What the documents say is true: verbs, commands, links, snippets, options and fields exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import json
import re
import shlex
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gossipnode.cli.app import VERBS, root
from gossipnode.cli.simulate.compare import variants
from gossipnode.config.listing import options
from gossipnode.configfile import load_config, load_peers
from gossipnode.node.status import Status

ROOT = Path(__file__).parents[1]
USER_PAGES = [ROOT / "README.md", ROOT / "docs/quickstart.md", ROOT / "deploy/README.md"]
PAGES = sorted(
    {*USER_PAGES, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")}
)
SHELL = {"sh", "bash", "console"}


@dataclasses.dataclass(frozen=True)
class Fence:
    """A fenced block: ``language``, ``text`` and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path) -> Iterator[Fence]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start, language = 0, None
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if language is None:
            start, language = number, line[3:].strip()
        else:
            yield Fence(page, start, language, "\n".join(lines[start : number - 1]))
            language = None
    assert language is None, f"{name_of(page)}:{start}: the block has no end"


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def shell_lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        yield line.removeprefix("$ ").strip()


def calls(line: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of gossipnode in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    current: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set(";&|<>"):
            current.append(word)
            continue
        # Variables and sudo may stand before it, and whatever follows it is its own.
        at = [i for i, w in enumerate(current) if w.rpartition("/")[2] == "gossipnode"]
        if at and all("=" in w or w == "sudo" for w in current[: at[0]]):
            yield current[at[0] + 1 :]
        current = []


def parse(arguments: list[str]) -> click.Context:
    """Parse a command line as ``gossipnode`` would, without running it; raises what click does."""
    command: click.Command = root
    context = command.make_context("gossipnode", list(arguments))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, f"no command {name}"
        command = found
        context = command.make_context(name, rest, parent=context)
    return context


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


def documented_calls() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        for fence in fences(page):
            if fence.language in SHELL:
                found += [(fence.where, c) for ln in shell_lines(fence.text) for c in calls(ln)]
        for code in re.findall(r"`(gossipnode [^`\n]+)`", prose(page)):
            words = shlex.split(code)[1:]
            # A verb alone is a name and not a call: its arguments are nobody's business here.
            if not set(words) <= set(itertools.chain(*leaves(root))):
                found.append((name_of(page), words))
    return [(where, call) for where, call in found if not {"--help", "--version"} & {*call}]


CALLS = documented_calls()
FENCES = [fence for page in PAGES for fence in fences(page)]


def of_language(*languages: str) -> list[Any]:
    return [pytest.param(f, id=f.where) for f in FENCES if f.language in languages]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_verb_named_exists(page):
    known = {path[:n] for path in leaves(root) for n in range(1, len(path) + 1)}
    for code in re.findall(r"`gossipnode ([a-z ]+)`", prose(page)):
        assert tuple(code.split()) in known, f"{name_of(page)}: gossipnode {code}"


def test_the_verbs_are_those_of_the_command_line():
    assert {path[0] for path in leaves(root)} == set(VERBS)


@pytest.mark.parametrize("path", sorted(leaves(root)), ids=" ".join)
def test_every_verb_is_shown_in_use(path):
    shown = [tuple(call[: len(path)]) for _, call in CALLS]
    assert path in shown, f"no page shows `gossipnode {' '.join(path)}`"


@pytest.mark.parametrize(("where", "call"), [pytest.param(*c, id=" ".join(c[1])) for c in CALLS])
def test_every_command_line_parses(where, call):
    try:
        parse(call)
    except click.exceptions.NoArgsIsHelpError:
        assert not call
    except click.ClickException as error:
        pytest.fail(f"{where}: gossipnode {' '.join(call)}: {error.format_message()}")


def test_a_wrong_command_line_would_be_noticed():
    (call,) = calls("sudo X=1 /opt/bin/gossipnode start --rouns 3 | tee log")
    assert call == ["start", "--rouns", "3"]
    with pytest.raises(click.NoSuchOption):
        parse(call)


def slug(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{name_of(page)}: {target} does not exist"
        assert to.is_relative_to(ROOT), f"{name_of(page)}: {target} leaves the repository"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(to), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{name_of(page)}: no heading for {target}"


@pytest.mark.parametrize("fence", of_language("python"))
def test_every_python_snippet_compiles_and_its_imports_exist(fence):
    tree = compile(
        fence.text,
        fence.where,
        "exec",
        ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gossipnode"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{fence.where}: no {alias.name}"


@pytest.mark.parametrize("fence", of_language("toml"))
def test_every_toml_snippet_is_a_config_or_a_peer_list(fence, tmp_path):
    path = tmp_path / "snippet.toml"
    path.write_text(fence.text, encoding="utf-8")
    if "peer" in tomllib.loads(fence.text):
        assert load_peers(path)
    elif found := variants(path):
        for variant in found:
            load_config(path, variant=(variant.where, variant.changes))
    else:
        load_config(path)


@pytest.mark.parametrize("fence", of_language("json"))
def test_every_status_shown_has_the_fields_of_a_status(fence):
    check_fields(json.loads(fence.text.replace("…", "")), Status, fence.where)


def check_fields(shown: dict[str, Any], kind: type, where: str) -> None:
    hints = typing.get_type_hints(kind)
    for key, value in shown.items():
        assert key in hints, f"{where}: {kind.__name__} has no {key}"
        inner = next((t for t in (hints[key], *typing.get_args(hints[key])) if is_record(t)), None)
        for entry in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(entry, dict):
                check_fields(entry, inner, where)


def is_record(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_named_exists(page):
    known = {option.key for option in options()}
    # `node.run` may be code: the two options of that section are told apart by the test below.
    sections = {key.split(".")[0] for key in known} - {"node"}
    for word in re.findall(r"`([a-z]+\.[a-z_]+)`", prose(page)):
        section, name = word.split(".")
        if section in sections and name not in ("toml", "py", "md"):
            assert word in known, f"{name_of(page)}: no option {word}"


def test_every_environment_variable_named_exists():
    known = {option.env for option in options()}
    files = [*PAGES, *(path for path in (ROOT / "deploy").iterdir() if path.is_file())]
    for path in files:
        for word in re.findall(r"\bGOSSIPNODE_[A-Z_]+\b", path.read_text(encoding="utf-8")):
            assert word in known, f"{name_of(path)}: no variable {word}"


def test_decisions_are_numbered_without_a_gap():
    numbers = sorted(int(p.name[:4]) for p in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
    for path in (ROOT / "docs/decisions").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]}: ")
        headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequence", "Alternatives"], path.name
