"""Random programs mean in a kernel what they mean in CPython."""

import itertools
import linecache

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.frontend import harness
from tests.frontend.harness import SIZE, as_kernel, in_kernel, in_python

NAMES = "abcxyz"
_numbers = itertools.count()


class Writer:
    """Draws one program; every variable is bound first and stays below 1009."""

    def __init__(self, random):
        self.random = random
        self.lines = []
        self.loops = 0

    def pick(self, *options):
        return self.random.choice(options)

    def atom(self):
        return self.pick(*NAMES, *NAMES, str(self.random.randint(-9, 30)))

    def expr(self, depth=2):
        if depth == 0:
            return self.atom()
        a, b = self.expr(depth - 1), self.expr(depth - 1)
        return self.pick(
            self.atom(),
            f"({a} + {b})",
            f"({a} - {b})",
            f"({a} * {self.atom()})",
            f"({a} // {self.pick(2, 3, -7)})",
            f"({a} % {self.pick(2, 5, -3)})",
            f"({a} if {self.cond(depth - 1)} else {b})",
            f"min({a}, {b})",
            f"abs({a})",
            f"({a} ^ {b})",
            f"(-{a})",
            f"({a} and {b})",
            f"({a} or {b})",
            f"twist({a}, {b})",
        )

    def cond(self, depth=1):
        a, b, c = self.expr(depth), self.expr(depth), self.atom()
        simple = f"{a} {self.pick('<', '<=', '==', '!=', '>', '>=')} {b}"
        if depth == 0:
            return simple
        return self.pick(
            simple,
            f"{a} < {b} <= {c}",
            f"({simple}) and {self.cond(depth - 1)}",
            f"({simple}) or {self.cond(depth - 1)}",
            f"not ({simple})",
            f"({b} != 0 and {a} // ({b} or 1) > 1)",
            a,
        )

    def block(self, indent, budget, in_loop=False):
        for _ in range(self.random.randint(1, 3)):
            self.stmt(indent, budget, in_loop)

    def put(self, indent, text):
        self.lines.append("    " * indent + text)

    def assign(self, indent):
        name, other = self.random.sample(NAMES, 2)
        match self.random.randint(0, 3):
            case 0:
                self.put(indent, f"{name}, {other} = {other}, {name}")
            case 1:
                self.put(indent, f"{name} += {self.expr(1)}")
                self.put(indent, f"{name} %= 1009")
            case 2:
                self.put(indent, f"{name} = {other} = {self.expr()} % 1009")
            case _:
                self.put(indent, f"{name} = {self.expr()} % 1009")

    def stmt(self, indent, budget, in_loop):
        kind = self.random.randint(0, 9)
        if budget == 0 or kind < 4:
            self.assign(indent)
        elif kind < 6:
            self.put(indent, f"if {self.cond()}:")
            self.block(indent + 1, budget - 1, in_loop)
            if in_loop and self.random.random() < 0.4:
                self.put(indent + 1, self.pick("break", "continue"))
            if self.random.random() < 0.3:
                self.put(indent, f"elif {self.cond()}:")
                self.block(indent + 1, budget - 1, in_loop)
            if self.random.random() < 0.5:
                self.put(indent, "else:")
                self.block(indent + 1, budget - 1, in_loop)
        elif kind < 9:
            self.loop(indent, budget)
        else:
            self.put(indent, f"put(O, {self.random.randrange(SIZE)}, {self.expr()})")
            if self.random.random() < 0.3:
                self.put(indent, f"if {self.cond()}:")
                self.put(indent + 1, "return")

    def loop(self, indent, budget):
        self.loops += 1
        name = self.pick(*NAMES)
        bounds = self.pick(
            "4",
            "1, 6, 2",
            "5, -3, -2",
            f"{self.atom()} % 5",
            f"{self.atom()} % 4, {self.atom()} % 9",
            f"{self.atom()} % 7, -2, -1",
            f"{self.atom()} % 9, {self.atom()} % 9, {self.pick(2, -3)}",
        )
        if self.random.random() < 0.3:
            counter = f"n{self.loops}"
            self.put(indent, f"{counter} = 0")
            self.put(indent, f"while {self.pick('True', self.cond(), f'{counter} < 3')}:")
            self.put(indent + 1, f"{counter} += 1")
            self.put(indent + 1, f"if {counter} > {self.random.randint(1, 4)}:")
            self.put(indent + 2, "break")
        elif self.random.random() < 0.2:
            self.put(indent, f"for {name} in ({self.expr(1)} % 1009, {self.atom()}):")
            self.block(indent + 1, budget - 1, in_loop=False)
            return
        else:
            self.put(indent, f"for {name} in range({bounds}):")
        self.block(indent + 1, budget - 1, in_loop=True)
        if self.random.random() < 0.2:
            self.put(indent, "else:")
            self.block(indent + 1, 0)

    def program(self):
        self.put(0, "def program(O: O_, a: I, b: I, c: I):")
        self.put(
            1, f"x, y, z = {self.atom().translate(ARGUMENTS)}, 2, {self.pick('a', 'b - 1', '0')}"
        )
        for _ in range(3):
            self.block(1, 3)
        for i, name in enumerate(NAMES):
            self.put(1, f"put(O, {i}, {name})")
        return HELPERS + "\n".join(self.lines) + "\n"


ARGUMENTS = str.maketrans("xyz", "abc")
HELPERS = """
def twist(p, q):
    if p > q:
        return p - q
    for k in range(2):
        p += k * q
    return p % 101 if q else q

"""


def load(text):
    file = f"<random {next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names = {"O_": harness.O_, "I": harness.I, "put": harness.put}
    exec(compile(text, file, "exec"), names)
    return names["program"]


@settings(max_examples=80, phases=(Phase.explicit, Phase.generate))
@given(st.randoms(use_true_random=False), st.integers(-9, 20), st.integers(-9, 20))
def test_random_program(random, a, b):
    text = Writer(random).program()
    program = load(text)
    args = (a, b, 3)
    assert in_kernel(as_kernel(program), *args) == in_python(program, *args), text
