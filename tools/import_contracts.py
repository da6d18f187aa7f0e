"""Contracts of import-linter for what its own types cannot say; `make lint` checks them (see pyproject.toml)."""

from __future__ import annotations

import grimp
from importlinter import Contract, ContractCheck, fields, output


class FloorsContract(Contract):
    """Like the type `layers`, but the layer `*` stands for every child that no other layer names.

    A package of one file per method needs no list of its files: each new file is in the layer `*`, on the floor that it
    has in the list. Every child of the package is in a layer by this, and children of one layer may import each other.

    Options:
        - package: the package whose children are the layers.
        - layers: from high to low. `a : b` are children of one layer, `(a)` is a child that need not exist.
    """

    type_name = "floors"

    package = fields.StringField()
    layers = fields.ListField(subfield=fields.StringField())

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        package = str(self.package)
        children = {name.rpartition(".")[2] for name in graph.find_children(package)}
        rows = [[name.strip() for name in str(row).split(":")] for row in self.layers]
        required = {name for row in rows for name in row if name != "*" and not name.startswith("(")}
        if required - children or ["*"] not in rows:
            raise ValueError(f"`layers` of {package}: expected a layer '*' and children of it, found {rows}")
        listed = {name.strip("()") for row in rows for name in row}
        floors = [children - listed if row == ["*"] else {n.strip("()") for n in row} & children for row in rows]
        layers = [grimp.Layer(*floor, independent=False) for floor in floors if floor]
        routes = [
            (head, *route.middle, tail)
            for dependency in graph.find_illegal_dependencies_for_layers(layers=layers, containers={package})
            for route in dependency.routes
            for head in route.heads
            for tail in route.tails
        ]
        return ContractCheck(kept=not routes, metadata={"routes": sorted(routes)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for route in check.metadata["routes"]:
            output.print_error("imports a higher layer: " + " -> ".join(route), bold=False)


class CirclesContract(Contract):
    """No module is imported by what it imports itself, however long the way; a package's `__init__` is a module too.

    The type `acyclic_siblings` looks at children of one package and does not see a file that imports its own package.

    Options:
        - ignore_imports: imports that do not count, as `importer -> imported`. One that is not there is an error.
    """

    type_name = "circles"

    ignore_imports = fields.SetField(subfield=fields.StringField(), required=False)

    def check(self, graph: grimp.ImportGraph, verbose: bool) -> ContractCheck:
        for text in sorted(str(entry) for entry in self.ignore_imports or ()):
            importer, imported = (name.strip() for name in text.split("->"))
            if not graph.direct_import_exists(importer=importer, imported=imported):
                raise ValueError(f"the ignored import {text} is not there any more: remove it from ignore_imports")
            graph.remove_import(importer=importer, imported=imported)
        circles = []
        rest = set(graph.modules)
        while rest:
            start = min(rest)
            # what reaches `start` and is reached from it is one knot; a shortest way round shows it
            knot = graph.find_downstream_modules(start) & graph.find_upstream_modules(start)
            rest -= {start, *knot}
            ways = [
                (start, *way)
                for first in graph.find_modules_directly_imported_by(start) & knot
                if (way := graph.find_shortest_chain(importer=first, imported=start))
            ]
            if ways:
                circles.append(min(ways, key=lambda way: (len(way), way)))
        return ContractCheck(kept=not circles, metadata={"circles": circles})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for circle in check.metadata["circles"]:
            output.print_error("a circle: " + " -> ".join(circle), bold=False)
