"""Hooks of mkdocs: links for the names in docstrings, and the list of all messages from the code itself."""

import ast
import re
from pathlib import Path


PACKAGE = Path(__file__).parents[1] / "optimum_snp"
PLACE = "<!-- all messages -->"
_NAME = re.compile(r"\[<code>(~?[\w.]+)</code>\]")
_KINDS = ("ConnectionError", "ImportError", "OSError", "PermissionError", "RuntimeError", "TypeError", "ValueError")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Puts the messages of all errors where a page asks for them."""
    return markdown.replace(PLACE, messages_as_markdown()) if PLACE in markdown else markdown


def on_page_content(html: str, **_: object) -> str:
    """Turns [`~package.Name`], as Hugging Face's docstrings have it, into a link on the page or its last part."""
    anchors = {anchor.rpartition(".")[2]: anchor for anchor in re.findall(r'id="(optimum_snp[\w.]+)"', html)}

    def link(match: re.Match) -> str:
        name = match[1].lstrip("~").rpartition(".")[2]
        code = f"<code>{name if match[1].startswith('~') else match[1]}</code>"
        return f'<a href="#{anchors[name]}">{code}</a>' if name in anchors else code

    return _NAME.sub(link, html)


def messages_as_markdown() -> str:
    """A heading per folder of the package, and below it the messages of what is raised there."""
    lines = []
    for room, found in all_messages().items():
        lines += [f"### {room}", "", *(f"- `{kind}`: {_escaped(text)}" for kind, text in found), ""]
    return "\n".join(lines)


def all_messages() -> dict[str, list[tuple[str, str]]]:
    """By folder or file of the package: kind and text of every error that is raised; `…` stands for what varies."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _KINDS and call.args:
                text = _text(call.args[0])
                if any(letter.isalpha() for letter in text):
                    found.setdefault(room, []).append((call.func.id, text))
    return {room: sorted(set(messages), key=lambda message: message[1]) for room, messages in found.items()}


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]<>*_`|])", r"\\\1", " ".join(text.split()))
