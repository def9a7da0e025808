"""An index of items by amount that finds the smallest item with an amount within a range.

It is a binary trie of the amounts with compressed paths (a radix tree). A branch stands for the amounts that
are equal in all bits above one bit, and knows the smallest item below it. So there is one branch fewer than
amounts, at most 30 levels of them, and every operation is logarithmic in the largest amount.
"""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedList

MAX_AMOUNT = 2**30 - 1
"""Amounts are from 0 to this; larger ones are treated as equal to it."""

Item = TypeVar("Item", bound=Any)


class _Branch(Generic[Item]):
    """Two subtrees, by whether an amount has ``bit``; ``first`` is the smallest item of both."""

    __slots__ = ("bit", "first", "one", "prefix", "zero")

    def __init__(self, bit: int, zero: "_Tree[Item]", one: "_Tree[Item]", prefix: int) -> None:
        self.bit = bit
        self.zero = zero
        self.one = one
        self.prefix = prefix
        self.update()

    def update(self) -> None:
        """Recompute the smallest item."""
        self.first: Item = min(self.zero.first, self.one.first)

    def below(self, amount: int) -> "_Tree[Item]":
        """Return the subtree that contains an amount."""
        return self.one if amount & self.bit else self.zero

    def replace(self, amount: int, tree: "_Tree[Item]") -> None:
        """Replace the subtree that contains an amount."""
        if amount & self.bit:
            self.one = tree
        else:
            self.zero = tree


class _Leaf(Generic[Item]):
    """The items of one amount; there is at least one."""

    __slots__ = ("amount", "items")

    def __init__(self, amount: int, item: Item) -> None:
        self.amount = amount
        self.items: SortedList[Item] = SortedList((item,))

    @property
    def first(self) -> Item:
        """The smallest item."""
        return self.items[0]


_Tree = _Branch[Item] | _Leaf[Item]


class RangeMinimum(Generic[Item]):
    """Items by amount; an item may be added once."""

    def __init__(self) -> None:
        self._root: _Tree[Item] | None = None

    def __bool__(self) -> bool:
        return self._root is not None

    def __iter__(self) -> Iterator[Item]:
        trees = [] if self._root is None else [self._root]
        while trees:
            tree = trees.pop()
            if isinstance(tree, _Leaf):
                yield from tree.items
            else:
                trees += (tree.one, tree.zero)

    def add(self, amount: int, item: Item) -> None:
        """Add an item under an amount."""
        amount = min(amount, MAX_AMOUNT)
        path, leaf = self._find(amount)
        if leaf is None or self._root is None:
            self._root = _Leaf(amount, item)
        elif leaf.amount == amount:
            leaf.items.add(item)
        else:
            bit = 1 << (leaf.amount ^ amount).bit_length() - 1
            path = [branch for branch in path if branch.bit > bit]
            other = path[-1].below(amount) if path else self._root
            new: _Leaf[Item] = _Leaf(amount, item)
            zero, one = (other, new) if amount & bit else (new, other)
            self._put(path, amount, _Branch(bit, zero, one, amount & ~(2 * bit - 1)))
        _update(path)

    def remove(self, amount: int, item: Item) -> None:
        """Remove an item; raises ValueError if nothing has its amount."""
        amount = min(amount, MAX_AMOUNT)
        path, leaf = self._find(amount)
        if leaf is None or leaf.amount != amount:
            raise ValueError(f"no item has the amount {amount}")
        leaf.items.remove(item)
        if not leaf.items:
            if not path:
                self._root = None
                return
            branch = path.pop()
            self._put(path, amount, branch.zero if amount & branch.bit else branch.one)
        _update(path)

    def first(self, low: int, high: int) -> Item | None:
        """Return the smallest item with an amount from ``low`` to ``high``, None if there is none."""
        low, high = min(low, MAX_AMOUNT), min(high, MAX_AMOUNT)
        found: Item | None = None
        trees = [] if self._root is None else [self._root]
        while trees:
            tree = trees.pop()
            first, last = (tree.amount, tree.amount) if isinstance(tree, _Leaf) else _range(tree)
            if last < low or high < first:
                continue
            if isinstance(tree, _Leaf) or (low <= first and last <= high):
                found = tree.first if found is None else min(found, tree.first)
            else:
                trees += (tree.one, tree.zero)
        return found

    def _find(self, amount: int) -> "tuple[list[_Branch[Item]], _Leaf[Item] | None]":
        """Return the branches on the path to an amount, and the leaf at its end, None if there is none."""
        path: list[_Branch[Item]] = []
        tree = self._root
        while isinstance(tree, _Branch):
            path.append(tree)
            tree = tree.below(amount)
        return path, tree

    def _put(self, path: list[_Branch[Item]], amount: int, tree: _Tree[Item]) -> None:
        if path:
            path[-1].replace(amount, tree)
        else:
            self._root = tree


def _update(path: list[_Branch[Item]]) -> None:
    for branch in reversed(path):
        before = branch.first
        branch.update()
        if branch.first is before:
            return  # the branches above do not change either


def _range(branch: _Branch[Item]) -> tuple[int, int]:
    return branch.prefix, branch.prefix + 2 * branch.bit - 1
