"""Where the values of a graph live while a step runs: arena columns, reused as soon as nothing reads them any more."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.graph.ir import Graph, Node, Value

ALIGNMENT = 16
"""Columns (floats) that a place is rounded up to: one cache line."""

View = tuple[int, int, int, int, int]
"""(space, column, row stride, offset, width) as native/program.h reads it."""

_ARENA = {"T": 0, "R": 1, "P": 2}
_OUTPUT = {"T": 3, "R": 4, "P": 5}


@dataclass(frozen=True)
class _Place:
    arena: int
    column: int
    width: int  # rounded up


class Arena:
    """Places for a graph's values, given out in node order.

    A slice shares its parent's place. Values that the step hands out get an array of their own instead; `outputs` lists
    them in the order in which the native program expects their arrays.
    """

    def __init__(self, graph: Graph) -> None:
        self.outputs: list[Value] = list({value.name: value for value in graph.outputs.values()}.values())
        self.columns = [0, 0, 0]  # of the T, the R and the P arena
        self._views: dict[str, View] = {}
        self._places: dict[str, _Place] = {}
        self._taken: set[_Place] = set()
        self._root = {node.name: node.name for node in graph}  # the value in whose place a value lies
        self._last_reader: dict[str, str] = {}
        for node in graph:
            if node.op == "slice":
                self._root[node.name] = self._root[node.inputs[0].name]
            for value in (node.output, *node.inputs):
                self._last_reader[self._root[value.name]] = node.name

    def view(self, value: Value) -> View:
        return self._views[value.name]

    def part(self, view: View, start: int, width: int) -> View:
        """Columns [start, start + width) of a view."""
        space, column, stride, offset, _ = view
        return (space, column, stride, offset + start, width)

    def place(self, node: Node) -> View | None:
        """Where `node`'s output is to be written, or None for a slice, which is where its parent is."""
        value = node.output
        handed_out = value in self.outputs
        if handed_out:
            written: View | None = (_OUTPUT[value.rows], self.outputs.index(value), value.width, 0, value.width)
        elif node.op == "slice":
            written = None
        else:
            column = self._take(value)
            written = (_ARENA[value.rows], column, value.width, 0, value.width)
        if node.op == "slice":
            start = node.attrs["start"]
            assert isinstance(start, int)
            self._views[value.name] = self.part(self.view(node.inputs[0]), start, value.width)
        else:
            assert written is not None
            self._views[value.name] = written
        return written

    def release(self, node: Node) -> None:
        """Free the places that `node` is the last to use."""
        for value in (node.output, *node.inputs):
            root = self._root[value.name]
            if self._last_reader[root] == node.name and root in self._places:
                self._taken.remove(self._places.pop(root))

    def _take(self, value: Value) -> int:
        """The first gap that is wide enough."""
        arena = _ARENA[value.rows]
        taken = sorted((place for place in self._taken if place.arena == arena), key=lambda place: place.column)
        width = -(-value.width // ALIGNMENT) * ALIGNMENT
        column = 0
        for place in taken:
            if place.column - column >= width:
                break
            column = place.column + place.width
        self._places[value.name] = place = _Place(arena, column, width)
        self._taken.add(place)
        self.columns[arena] = max(self.columns[arena], column + width)
        return column
