"""One-line changes of code: those of Cosmic Ray that a test can be asked to see, and ours.

Cosmic Ray knows operators, comparisons, integers, conditions, decorators and loops. Faults of this
project were of three more kinds: an argument that is not passed on, a step of a computation that is
left out, a constant that is another one.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators import provider
from cosmic_ray.operators.operator import Operator

Span = tuple[tuple[int, int], tuple[int, int]]
"""Line and column of a begin and an end."""

# fmt: off
STEPS = {
    "abs", "clamp", "clamp_min", "clamp_max", "clip", "detach", "flip", "float", "log", "relu",
    "sigmoid", "softmax", "sqrt", "square", "to",
}
"""Methods that leave something to compute with when their call is left out."""

SWAPS = {
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul",
    "BitOr_BitAnd", "BitAnd_BitOr", "USub_UAdd", "Delete_USub", "Delete_Invert", "Delete_Not",
    "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
    "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is",
}
"""Operators and what replaces them; Cosmic Ray's other swaps mostly crash, which any test sees."""

NOT_TRIED = {"device", "encoding", "strict"}
"""Arguments whose change counts as none: those of other machines, and a guard against ourselves."""
# fmt: on


class Doubled(Operator):
    """A decimal number becomes twice as large, and 0.0 becomes 1.0."""

    def mutation_positions(self, node: Any) -> list[Span]:
        """Where it can."""
        decimal = node.type == "number" and isinstance(ast.literal_eval(node.value), float)
        return [(node.start_pos, node.end_pos)] if decimal else []

    def mutate(self, node: Any, index: int) -> Any:
        """Change the node."""
        node.value = repr(2 * float(node.value) or 1.0)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None."""
        return ()


class KeywordDropped(Operator):
    """A keyword argument of a call is left out."""

    @staticmethod
    def _arguments(node: Any) -> list[int]:
        if node.type not in ("arglist", "trailer"):
            return []
        return [
            index
            for index, child in enumerate(node.children)
            if child.type == "argument" and child.children[1] == "="
        ]

    def mutation_positions(self, node: Any) -> list[Span]:
        """Where it can."""
        arguments = [node.children[index] for index in self._arguments(node)]
        return [(argument.start_pos, argument.end_pos) for argument in arguments]

    def mutate(self, node: Any, index: int) -> Any:
        """Change the node."""
        place = self._arguments(node)[index]
        # With the comma behind it, or the one before the last.
        first = place if node.children[place + 1 : place + 2] or place == 0 else place - 1
        behind = 2 if node.type == "arglist" else 1
        del node.children[first : first + behind]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None."""
        return ()


class StepLeftOut(Operator):
    """A call of one of the methods of ``STEPS`` is left out."""

    @staticmethod
    def _calls(node: Any) -> list[int]:
        if node.type not in ("atom_expr", "power"):
            return []
        parts = node.children
        return [
            index
            for index in range(1, len(parts) - 1)
            if parts[index].type == parts[index + 1].type == "trailer"
            and parts[index].children[0] == "."
            and getattr(parts[index].children[1], "value", None) in STEPS
            and parts[index + 1].children[0] == "("
        ]

    def mutation_positions(self, node: Any) -> list[Span]:
        """Where it can."""
        parts = getattr(node, "children", [])
        return [(parts[i].start_pos, parts[i + 1].end_pos) for i in self._calls(node)]

    def mutate(self, node: Any, index: int) -> Any:
        """Change the node."""
        place = self._calls(node)[index]
        del node.children[place : place + 2]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None."""
        return ()


class Mutant(NamedTuple):
    """A change of a module: what makes it, which time it can, and the line that it begins in."""

    operator: str
    occurrence: int
    line: int


def operators() -> dict[str, Operator]:
    """What changes code, by name."""
    own: dict[str, Operator] = {
        kind.__name__: kind() for kind in (Doubled, KeywordDropped, StepLeftOut)
    }
    core = provider.OperatorProvider()
    for name in core:
        family, _, swap = name.partition("Operator_")
        if not core[name].arguments() and (not swap or swap in SWAPS):
            own[name] = core[name]()
    return own


def mutants_by_place(source: str) -> dict[tuple[Any, ...], list[Mutant]]:
    """All mutants of a module, by what they change and how; some may be the same program."""
    nodes = list(ast_nodes(get_ast(source)))
    found: dict[tuple[Any, ...], list[Mutant]] = {}
    for name, operator in operators().items():
        positions = [span for node in nodes for span in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            if name == "NumberReplacer" and (start, end, "Doubled") in found:
                continue  # a decimal number, which it would change by 1
            family = name.partition("Operator_")[0]
            mutant = Mutant(name, occurrence, start[0])
            found.setdefault((start, end, family), []).append(mutant)
    return found


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the change."""
    changed = mutate_code(source, operators()[mutant.operator], mutant.occurrence)
    assert changed is not None
    return changed


def is_other_program(source: str, mutant: Mutant) -> bool:
    """Whether a mutant is Python, and changes more than annotations and docstrings."""
    try:
        changed = meaning(mutated(source, mutant))
    except AttributeError:  # Cosmic Ray cannot replace exceptions with dotted names
        return False
    return changed not in (None, meaning(source))


def meaning(source: str) -> str | None:
    """What a module does; None = no Python.

    Its syntax tree without annotations, docstrings, marks of how arguments may be passed, and the
    arguments of ``NOT_TRIED``.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arguments):
            node.args = node.posonlyargs + node.args + node.kwonlyargs
            node.defaults += [value for value in node.kw_defaults if value is not None]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        if isinstance(node, ast.Call):
            node.keywords = [word for word in node.keywords if word.arg not in NOT_TRIED]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            del node.body[0]
    return ast.dump(tree)
