"""The algebra of symbolic tensor axes: which axes hold the same indices after reshapes, concatenations and splits.

An *atom* is an index range that can only shrink as a whole. A *product* of atoms is an axis that was reshaped from
several (row-major, the outermost atom first), and an *axis* is a sum of products, that is, their concatenation:

- the rows of a fused query-key-value weight are one product, `((three, heads, head_dim),)`;
- two feature maps concatenated along their channels give the sum `((a,), (b,))`;
- an axis of size 1 is the empty product, `((),)`.

Two axes that an operator adds, multiplies or contracts hold the same indices, and are *unified*. This is a union-find
over atoms with one extension. When axes of the same size have different factors, as in a reshape of `width` to
`(heads, head_dim)`, no two atoms can be merged; then the coarser atom gets a *definition* in terms of finer ones, and
`resolve` replaces it wherever it occurs.

Whatever cannot be expressed this way is *frozen*: its atoms keep their size. This is always safe, since an axis that is
never narrowed needs no rule.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Product = tuple[int, ...]
Axis = tuple[Product, ...]
UNIT: Axis = ((),)


@dataclass
class _Atom:
    """One index range.

    Attributes:
        size: number of indices.
        frozen: why it must keep its size, None where it may shrink.
        same_as: its parent in the union-find, None for a representative.
        definition: the sum of products of finer atoms that it was found to be.
        tags: words noted by `Axes.tag`.
    """

    size: int
    frozen: str | None = None
    same_as: int | None = None
    definition: Axis | None = None
    tags: set[str] = field(default_factory=set)


class Axes:
    """All atoms of one graph, with what is known of them: a union-find with definitions (see the module)."""

    def __init__(self) -> None:
        self._atoms: list[_Atom] = []

    def fresh(self, size: int, frozen: str | None = None) -> Axis:
        """A new axis of one atom, or the unit axis for size 1.

        Args:
            size: number of indices.
            frozen: why the axis must keep its size; None: it may shrink.
        """
        return ((self._new(size, frozen),),) if size != 1 else UNIT

    def _new(self, size: int, frozen: str | None = None) -> int:
        self._atoms.append(_Atom(size, frozen))
        return len(self._atoms) - 1

    def _find(self, atom: int) -> int:
        """The representative of an atom. There are few atoms, so paths are not compressed."""
        while (parent := self._atoms[atom].same_as) is not None:
            atom = parent
        return atom

    def atom_size(self, atom: int) -> int:
        """Number of indices of an atom."""
        return self._atoms[atom].size

    def frozen(self, atom: int) -> str | None:
        """Why a resolved atom must keep its size; None if it may shrink."""
        return self._atoms[atom].frozen

    def tags(self, atom: int) -> frozenset[str]:
        """The words that `tag` noted for a resolved atom."""
        return frozenset(self._atoms[atom].tags)

    def size(self, axis: Axis) -> int:
        """Number of indices of an axis."""
        return sum(self._product_size(product) for product in axis)

    def _product_size(self, product: Product) -> int:
        return math.prod(self._atoms[atom].size for atom in product)

    def resolve(self, axis: Axis) -> Axis:
        """The same axis written in representatives of the finest atoms known so far."""
        terms: list[Product] = []
        for product in axis:
            terms.extend(self._resolve_product(product))
        return tuple(terms)

    def _resolve_product(self, product: Product) -> Axis:
        current: Axis = UNIT
        for atom in map(self._find, product):
            definition = self._atoms[atom].definition
            part = ((atom,),) if definition is None else self.resolve(definition)
            if len(part) > 1 and current != UNIT:
                # The atom is a sum in an inner position of a product, e.g. the two rotary halves of every head. Cutting
                # one term of it would remove indices from within each outer index, which an `AxisCut` cannot describe.
                # So its terms are frozen, and one frozen atom of the whole size takes their place from here on.
                self.freeze(part, "is split in pieces inside a larger axis")
                part = ((self._new(self._atoms[atom].size, "is split in pieces inside a larger axis"),),)
                self._atoms[atom].definition = part
            # A sum in the outermost position distributes over what follows: (a + b) * c = a * c + b * c.
            current = part if current == UNIT else tuple(term + part[0] for term in current)
        return current

    def freeze(self, axis: Axis, reason: str) -> None:
        """Mark every atom of the axis as one that must keep its size; the first reason given is kept."""
        for atom in self._members(axis):
            self._atoms[atom].frozen = self._atoms[atom].frozen or reason

    def tag(self, axis: Axis, word: str) -> None:
        """Note a word, such as "heads", for every atom of the axis."""
        for atom in self._members(axis):
            self._atoms[atom].tags.add(word)

    def _members(self, axis: Axis) -> list[int]:
        return [atom for product in self.resolve(axis) for atom in product]

    def unify(self, left: Axis, right: Axis) -> None:
        """Record that two axes hold the same indices in the same order.

        Atoms are merged or defined by finer ones until both axes resolve to the same sum of products. Axes of different
        sizes, or of factors that do not divide each other, are frozen instead.
        """
        left, right = self.resolve(left), self.resolve(right)
        if left == right:
            return
        if self.size(left) != self.size(right):
            self._give_up(left, right)
        elif len(left) == 1 and len(right) == 1:
            self._unify_products(left[0], right[0])
        elif len(left) == 1:
            self._unify_with_sum(left[0], right)
        elif len(right) == 1:
            self._unify_with_sum(right[0], left)
        else:
            self._unify_sums(left, right)

    def _give_up(self, *axes: Axis) -> None:
        for axis in axes:
            self.freeze(axis, "is factorised in two ways that do not fit")

    def _unify_products(self, left: Product, right: Product) -> None:
        """Match two products from the outermost atom inwards, factoring the larger atom wherever sizes differ."""
        a, b = list(left), list(right)
        while a and b:
            (x, a), (y, b) = self._pop(a), self._pop(b)
            if x is None or y is None:
                self._give_up((tuple(a + b),), *(((z,),) for z in (x, y) if z is not None))
                return
            size_x, size_y = self._atoms[x].size, self._atoms[y].size
            if size_x == size_y:
                self._union(x, y)
            elif max(size_x, size_y) % min(size_x, size_y):
                self._give_up(((x,),), ((y,),), (tuple(a),), (tuple(b),))
                return
            elif size_x > size_y:
                a.insert(0, self._factor(x, y))
            else:
                b.insert(0, self._factor(y, x))

    def _pop(self, product: list[int]) -> tuple[int | None, list[int]]:
        """The first atom of a product, resolved, and the rest; None where it has become a sum or is empty."""
        # Resolved again at each step: a merge or definition of the step before may concern the atoms that remain.
        resolved = self.resolve((tuple(product),))
        if len(resolved) != 1:
            self.freeze(resolved, "is both a sum and a product")
            return None, []
        return (resolved[0][0], list(resolved[0][1:])) if resolved[0] else (None, [])

    def _factor(self, large: int, outer: int) -> int:
        """Define the atom `large` as the product of `outer` and a new inner atom, which is returned."""
        inner = self._new(self._atoms[large].size // self._atoms[outer].size)
        self._define(large, ((outer, inner),))
        return inner

    def _unify_with_sum(self, product: Product, terms: Axis) -> None:
        """Unify a single product with a sum of several: its outermost atom becomes a sum, one piece for each term."""
        # Only the outermost atom can be split, and only if each term holds whole copies of the inner atoms.
        leading, rest = product[0], product[1:]
        rest_size = self._product_size(rest)
        sizes = [self._product_size(term) for term in terms]
        if any(size % rest_size for size in sizes):
            self._give_up((product,), terms)
            return
        if not rest:
            self._define(leading, terms)
            return
        pieces = [self.fresh(size // rest_size) for size in sizes]
        self._define(leading, tuple(piece[0] for piece in pieces))
        for piece, term in zip(pieces, terms, strict=True):
            self.unify((piece[0] + rest,), (term,))

    def _unify_sums(self, left: Axis, right: Axis) -> None:
        """Match two concatenations term by term, splitting the longer term wherever the lengths differ."""
        a, b = list(left), list(right)
        while a and b:
            x, y = a.pop(0), b.pop(0)
            size_x, size_y = self._product_size(x), self._product_size(y)
            if size_x == size_y:
                self.unify((x,), (y,))
                continue
            large, small, rest = (x, size_y, a) if size_x > size_y else (y, size_x, b)
            # A term of several atoms would have to be split within its outermost atom: not needed by any network yet.
            if len(large) != 1:
                self._give_up((x,), (y,), tuple(a), tuple(b))
                return
            head, tail = self.fresh(small)[0], self.fresh(abs(size_x - size_y))[0]
            self._define(large[0], (head, tail))
            rest.insert(0, tail)
            self.unify((head,), (y if size_x > size_y else x,))

    def _union(self, x: int, y: int) -> None:
        """Merge two atoms of the same size; `x` stays the representative and inherits what is known of `y`."""
        if x == y:
            return
        a, b = self._atoms[x], self._atoms[y]
        b.same_as = x
        a.frozen = a.frozen or b.frozen
        a.tags |= b.tags

    def _define(self, atom: int, axis: Axis) -> None:
        """Let `atom` stand for `axis`, which inherits its tags and its reason to be frozen."""
        if atom in self._members(axis):
            # An atom inside its own definition could never be resolved.
            self._give_up(axis)
            return
        owner = self._atoms[atom]
        for word in owner.tags:
            self.tag(axis, word)
        if owner.frozen:
            self.freeze(axis, owner.frozen)
        owner.definition = axis

    def merge(self, axes: Iterable[Axis]) -> Axis:
        """The axis that a reshape makes of several neighbouring axes, the outermost first."""
        merged: Axis = UNIT
        for axis in map(self.resolve, axes):
            if len(axis) > 1 and merged != UNIT:
                # As in `_resolve_product`: a sum in an inner position cannot shrink.
                self.freeze(axis, "is split in pieces inside a larger axis")
                axis = self.fresh(self.size(axis), "is split in pieces inside a larger axis")
            merged = axis if merged == UNIT else tuple(term + axis[0] for term in merged)
        return merged

    def split(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """Split one axis into neighbouring axes of the given sizes, the outermost first, as a reshape does."""
        parts = [self.fresh(size) for size in sizes]
        self.unify(axis, self.merge(parts))
        return parts

    def reshape(self, axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis]:
        """The axes of a tensor after a reshape.

        Args:
            axes: the axes before it.
            shape: the sizes after it.

        Returns:
            One axis for each size of `shape`. Axes are grouped from the left: a group is the shortest run of old axes
            whose sizes multiply to the same number as a run of new ones. It is merged into one axis, then split.
        """
        result: list[Axis] = []
        sizes = [self.size(axis) for axis in axes]
        i = j = 0
        while j < len(shape):
            if shape[j] == 1:
                result.append(UNIT)
                j += 1
                continue
            while sizes[i] == 1:
                i += 1
            # Take axes on the side whose product is the smaller one until both products agree.
            first_in, first_out = i, j
            have, want = sizes[i], shape[j]
            i, j = i + 1, j + 1
            while have != want:
                if have < want:
                    have, i = have * sizes[i], i + 1
                else:
                    want, j = want * shape[j], j + 1
            whole = self.merge(axes[first_in:i])
            result.extend([whole] if j - first_out == 1 else self.split(whole, shape[first_out:j]))
        return result
