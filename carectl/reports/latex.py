r"""A document's tables and figures as LaTeX: booktabs, and nothing beyond ASCII in the file.

For `\usepackage{booktabs,graphicx}`.
"""

from __future__ import annotations

from carectl.reports.document import Cell, DataTable, Document, Figure

_WORDS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$", "·": r"$\cdot$",
    "√": r"$\surd$", "²": "$^2$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "→": r"$\rightarrow$", "°": r"$^\circ$", "‖": r"$\Vert$", "∞": r"$\infty$",
    "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "…": r"\ldots{}", "’": "'",
    "Δ": r"$\Delta$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "λ": r"$\lambda$",
    "μ": r"$\mu$", "ρ": r"$\rho$", "σ": r"$\sigma$", "τ": r"$\tau$", "φ": r"$\varphi$",
    "θ": r"$\theta$", "∘": r"$\circ$", "ᵀ": r"$^{\mathsf T}$", "₀": "$_0$", "₁": "$_1$",
    "₂": "$_2$", "ₐ": "$_a$",
}  # fmt: skip


def text(document: Document) -> str:
    """The tables, then the figures, each with its caption and label."""
    head = [f"% {_comment(document.title)}", f"% {_comment(document.source)}"]
    head += [f"% WARNING: {_comment(told)}" for told in document.warnings]
    tables = [_table(document, table) for table in document.tables]
    figures = [_figure(document, figure) for figure in document.figures]
    return "\n".join([*head, "", *tables, *figures])


def escape(words: str) -> str:
    """Text that LaTeX sets as it is; a character it may not know becomes a question mark."""
    flat = " ".join(words.split())
    return "".join(
        _WORDS.get(char, char if char.isascii() and char.isprintable() else "?") for char in flat
    )


def _table(document: Document, table: DataTable) -> str:
    shape = "".join("r" if column.numeric else "l" for column in table.columns)
    notes = " ".join([table.caption + ".", *table.notes, *document.warnings])
    heads = " & ".join(escape(column.head) for column in table.columns)
    rows = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([
        r"\begin{table}", r"  \centering", f"  \\caption{{{escape(notes)}}}",
        f"  \\label{{tab:{_label(document.target, table.key)}}}",
        f"  \\begin{{tabular}}{{{shape}}}",
        r"    \toprule", f"    {heads} \\\\", r"    \midrule", *(f"    {row}" for row in rows),
        r"    \bottomrule", r"  \end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _figure(document: Document, figure: Figure) -> str:
    return "\n".join([
        r"\begin{figure}", r"  \centering",
        f"  \\includegraphics[width=\\linewidth]{{{figure.key}.png}}",
        f"  \\caption{{{escape(figure.caption)}}}",
        f"  \\label{{fig:{_label(document.target, figure.key)}}}", r"\end{figure}", "",
    ])  # fmt: skip


def _cell(cell: Cell) -> str:
    shown = escape(cell.text)
    shown = f"\\textbf{{{shown}}}" if cell.strong else shown
    return f"{shown} ({escape(cell.mark)})" if cell.mark and cell.mark not in cell.text else shown


def _label(target: str, key: str) -> str:
    name = key if key.startswith(target) else f"{target}-{key}"
    return "".join(char if char.isalnum() and char.isascii() else "-" for char in name)


def _comment(words: str) -> str:
    return " ".join(words.split()).encode("ascii", "replace").decode()
