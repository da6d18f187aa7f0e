"""Tables in LaTeX, with the rules of booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from equimodal._utils.printing import printable
from equimodal.report.formats._shown import Shown, ShownRow

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip
_MATHEMATICS = {
    "±": "pm", "×": "times", "÷": "div", "·": "cdot", "≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx", "∼": "sim",
    "∞": "infty", "√": "surd", "∑": "sum", "∂": "partial", "∈": "in", "→": "rightarrow", "←": "leftarrow", "↑":
    "uparrow", "↓": "downarrow", "↔": "leftrightarrow", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε":
    "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν":
    "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "ς": "varsigma", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "varphi",
    "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π":
    "Pi", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SPECIAL |= {"−": "$-$", **{mark: rf"$\{name}$" for mark, name in _MATHEMATICS.items()}}
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def latex_escaped(text: str) -> str:
    r"""``text`` as LaTeX prints it: nothing in it is a command, a comment, a column or mathematics.

    Greek letters and common signs become mathematics of their own. Other letters beyond Latin stay as they are: they
    need XeLaTeX or LuaLaTeX and a font that has them.

    Example:
        >>> print(latex_escaped("50% of a_b"))
        50\% of a\_b
    """
    made = "".join(_SPECIAL.get(mark, mark) for mark in printable(text))
    made = re.sub(r"-(?=-)|([?!])(?=\\textasciigrave)", r"\g<0>{}", made)  # no dashes and marks that TeX would join
    return f"{{}}{made}" if made.startswith(("[", "*")) else made  # \\ before it would take these for its own


def latex_text(tables: Sequence[Shown], notes: Sequence[str] = (), heading: str = "Incomplete") -> str:
    r"""The tables as floats, to be put into a document with ``\usepackage{booktabs}`` and ``\usepackage[T1]{fontenc}``.

    ``notes`` are comments at the top, each after ``heading``.
    """
    lines = [r"% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}."]
    lines += [f"% {heading}: {printable(note)}" for note in notes]
    for table in tables:
        columns = "l" * table.texts + "r" * (len(table.head) - table.texts)
        body = [_line(table, row) for row in table.rows]
        lines += [
            r"\begin{table}", r"  \centering", rf"  \caption{{{latex_escaped(table.caption)}}}",
            rf"  \label{{tab:{table.name}}}", rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule",
            f"    {' & '.join(map(latex_escaped, table.head))} \\\\", r"    \midrule", *body, r"    \bottomrule",
            r"  \end{tabular}", "", rf"  {{\footnotesize {' '.join(map(latex_escaped, table.notes))}\par}}",
            r"\end{table}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(table: Shown, row: ShownRow) -> str:
    cells = [latex_escaped(text) if i < table.texts else _number(text) for i, text in enumerate(row.cells)]
    if row.control:
        cells[0] = rf"\textit{{{cells[0]}}}"
    if row.best:
        cells[table.texts] = rf"\textbf{{{cells[table.texts]}}}"
    return f"    {' & '.join(cells)} \\\\"


def _number(text: str) -> str:
    return latex_escaped(_MINUS.sub("−", text))
