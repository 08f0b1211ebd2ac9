"""A graph as Mermaid text, which GitHub and others draw.

Names in a recipe are untrusted. Mermaid reads labels as Markdown and as HTML, and directives (`%%{...}%%`) wherever
they stand, so every character that means something to one of them is written as a character code.
"""

from __future__ import annotations

from search.graph.build import Graph, Node

_PLAIN = frozenset(" .,+-/=%()'±")
_SHAPES = {
    "base": ("([", "])"),
    "stage": ("[", "]"),
    "result": ("([", "])"),
    "term": ("[/", "/]"),
    "branch": ("[", "]"),
    "adapter": ("[[", "]]"),
    "aside": ("[[", "]]"),
    "scores": (">", "]"),
}
_ARROWS = {"then": "==>", "aside": "-.->", "joins": "-->", "scores": "-.-"}
_CLASSES = {
    "aside": "stroke-dasharray: 5 4",
    "scores": "fill:#f4f6f8,stroke:#9aa3ad,color:#22272e",
}


def mermaid_text(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart, with a newline at its end."""
    lines = [f"%% {escaped(graph.title)}", "flowchart TB"]
    lines += [f"    {_node(node)}" for node in graph.nodes]
    for edge in graph.edges:
        label = f'|"{escaped(edge.label)}"|' if edge.label else ""
        lines.append(f"    {edge.source} {_ARROWS[edge.kind]}{label} {edge.target}")
    lines += [f"    classDef {name} {style}" for name, style in _CLASSES.items()]
    scores = [node.key for node in graph.nodes if node.kind == "scores"]
    undone = [node.key for node in graph.nodes if not node.is_done or node.kind == "aside"]
    for name, keys in (("scores", scores), ("aside", undone)):
        if keys:
            lines.append(f"    class {','.join(keys)} {name}")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text that Mermaid shows as it is, whatever it holds."""
    return "".join(
        char
        if char in _PLAIN or char.isalnum() or (char == "_" and _is_inside_word(text, at))
        else f"#{ord(char)};"
        for at, char in enumerate(text)
    )


def _node(node: Node) -> str:
    opening, closing = _SHAPES[node.kind]
    text = "<br/>".join(escaped(line) for line in node.lines)
    return f'{node.key}{opening}"{text}"{closing}'


def _is_inside_word(text: str, at: int) -> bool:
    """Tell whether an underscore stands between letters, where Markdown takes it for no emphasis."""
    return 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum()
