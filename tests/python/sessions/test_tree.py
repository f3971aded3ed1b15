"""The tree beside a plain list of pieces: what is found, what may go, and what it all takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from isthmus.sessions.chain import CHUNK_TOKENS, Chain, boundary_before, root_key, token_array
from isthmus.sessions.chunkfile import Piece
from isthmus.sessions.tree import NOTHING, Node, Tree
from tests.python.sessions.rig import join, text
from tests.python.sessions.strategies import MANY

ROOT = root_key([b"model"])
STARTS = [text(length, seed) for length, seed in [(0, 0), (100, 1), (256, 1), (256, 2), (600, 1)]]
TEXTS = [join(start, text(700, seed)) for start in STARTS for seed in (3, 4)]
CHAINS = [Chain(ROOT, ids) for ids in TEXTS]
CUTS = [1, 50, 100, 255, 256, 300, 400, 512, 600, 700]


@dataclass
class Model:
    """A tree, and all that it should know, in lists."""

    tree: Tree = field(default_factory=Tree)
    nodes: list[Node] = field(default_factory=list)

    def grow(self, chain: Chain, cuts: list[int], size_bytes: int, state_bytes: int) -> None:
        """Add the pieces of a text that are not there, as a save does."""
        match = self.tree.find(chain, cuts[-1])
        start = match.tokens
        for cut in cuts:
            while start < cut:
                end = min(boundary_before(start) + CHUNK_TOKENS, cut)
                piece = Piece(chain.key(end), chain.key(start), start, end)
                node = Node(piece, size_bytes + state_bytes, state_bytes=state_bytes)
                self.nodes = [each for each in self.nodes if each.piece.key != piece.key]
                self.nodes.append(node)
                self.tree.add(node)
                start = end

    def remove(self, node: Node) -> None:
        self.nodes.remove(node)
        assert self.tree.remove(node.piece.key) is node

    def longest(self, chain: Chain, limit: int, needs_state: bool) -> int:
        """Return the length of the longest beginning that ends with a node: by trying them all."""
        reached = {0: chain.root}
        usable = [0]
        for end in range(1, limit + 1):
            for node in self.nodes:
                is_next = reached.get(node.piece.start) == node.piece.parent
                if node.piece.end == end and is_next and node.piece.key == chain.key(end):
                    reached[end] = node.piece.key
                    if node.has_state or not needs_state:
                        usable.append(end)
        return usable[-1]

    def may_go(self) -> list[Node]:
        """Return the leaves that nobody needs."""
        parents = {node.piece.parent for node in self.nodes}
        return [
            node
            for node in self.nodes
            if node.piece.key not in parents
            and not node.holders
            and not self.tree.pinned[node.piece.key]
        ]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw a tree with some texts, of which some nodes are held, pinned, used, or lost."""
    model = Model()
    for _ in range(draw(st.integers(0, 8))):
        cuts = sorted(draw(st.sets(st.sampled_from(CUTS), min_size=1, max_size=4)))
        size_bytes, state_bytes = draw(st.integers(1, 9)), draw(st.sampled_from([0, 0, 5]))
        model.grow(draw(st.sampled_from(CHAINS)), cuts, size_bytes, state_bytes)
    for node in list(model.nodes):
        match draw(st.sampled_from(["hold", "pin", "use", "lose", *["leave"] * 12])):
            case "hold":
                node.holders = 1
            case "pin":
                model.tree.pinned[node.piece.key] += 1
            case "use":
                model.tree.use(node)
            case "lose":
                model.remove(node)
    return model


@given(
    model=models(), chain=st.sampled_from(CHAINS), limit=st.integers(0, 700), state=st.booleans()
)
@MANY
def test_the_longest_beginning_is_found(
    model: Model, chain: Chain, limit: int, state: bool
) -> None:
    match = model.tree.find(chain, limit, state)
    assert match.tokens == model.longest(chain, limit, state)
    if match.tip is not None:
        path = model.tree.path(match.tip)
        assert path[0].piece.start == 0 and path[-1] is match.tip
        assert all(one.piece.key == other.piece.parent for one, other in pairwise(path))


@given(model=models())
@MANY
def test_sizes_add_up(model: Model) -> None:
    assert model.tree.size_bytes == sum(node.size_bytes for node in model.nodes)
    assert len(model.tree) == len(model.nodes)
    for number, node in enumerate(model.nodes):
        model.tree.set_state(node, number)
        assert node.has_state == (number > 0)
    assert model.tree.size_bytes == sum(node.size_bytes for node in model.nodes)


@given(model=models(), size_bytes=st.integers(0, 200))
@MANY
def test_what_goes_first_is_the_least_used_leaf_that_nobody_needs(
    model: Model, size_bytes: int
) -> None:
    freed = 0
    for node in model.tree.to_evict(size_bytes):
        assert freed < size_bytes
        assert node in model.may_go()
        assert node.used == min(each.used for each in model.may_go())
        model.remove(node)
        freed += node.size_bytes
    assert freed >= size_bytes or model.may_go() == []


@given(model=models(), data=st.data())
@MANY
def test_what_is_exclusive_is_what_no_other_session_and_no_reader_needs(
    model: Model, data: st.DataObject
) -> None:
    if not model.nodes:
        assert list(model.tree.exclusive(None)) == []
        return
    tips = data.draw(st.lists(st.sampled_from(model.nodes), min_size=1, max_size=3))
    for node in tips[1:]:
        model.tree.tips[node.piece.key] = {"another"}
    needed = {
        id(before)
        for node in model.nodes
        if node.piece.key in model.tree.tips or node.holders or model.tree.pinned[node.piece.key]
        for before in [node, *ancestors(model, node)]
    }
    removed = []
    for node in model.tree.exclusive(tips[0].piece.key):
        removed.append(node)
        model.remove(node)
    assert not needed & {id(node) for node in removed}
    assert removed == [tips[0], *ancestors(model, tips[0], removed)][: len(removed)]


def ancestors(model: Model, node: Node, also: list[Node] | None = None) -> list[Node]:
    """Return what lies before a node, the last first, as far as there is any."""
    known = {each.piece.key: each for each in [*model.nodes, *(also or [])]}
    found = []
    while (parent := known.get(node.piece.parent)) is not None:
        found.append(parent)
        node = parent
    return found


@given(model=models())
@MANY
def test_the_pieces_of_a_chunk_are_counted_from_the_last_one_on(model: Model) -> None:
    for node in model.nodes:
        expected = [node]
        for before in ancestors(model, node):
            if expected[-1].piece.start % CHUNK_TOKENS == 0:
                break
            expected.append(before)
        assert model.tree.pieces_in_chunk(node) == expected
    assert model.tree.pieces_in_chunk(None) == []


def test_a_node_takes_the_place_of_another_with_its_key() -> None:
    tree = Tree()
    key, parent = CHAINS[0].key(200), CHAINS[0].key(100)
    tree.add(Node(Piece(key, ROOT, 0, 200), 7))
    tree.add(Node(Piece(key, parent, 100, 200), 5))
    assert (len(tree), tree.size_bytes) == (1, 5)
    assert tree.find(CHAINS[0], 700) == NOTHING
    assert tree.children(ROOT) == []


def test_pieces_that_do_not_lie_one_after_the_other_are_no_path() -> None:
    """Their names are those of files, which anybody can make."""
    tree = Tree()
    chain = Chain(ROOT, token_array(range(300)))
    first, second = chain.key(100), chain.key(200)
    tree.add(Node(Piece(first, second, 60, 100), 1))
    tree.add(Node(Piece(second, first, 150, 200), 1))
    tree.add(Node(Piece(chain.key(250), ROOT, 3, 250), 1))
    assert all(tree.path(node) == [] for node in tree.nodes.values())
    assert tree.find(chain, 300) == NOTHING
    assert len(tree.pieces_in_chunk(tree.nodes[first])) <= 3
