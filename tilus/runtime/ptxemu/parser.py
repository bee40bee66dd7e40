"""PTX text to a `Module`: one pass over the tokens, no grammar tables.

Registers and labels of inner scopes get names of their own (`%t@2`), so that code after the parser
knows no scopes. `.loc` is kept with each instruction; debug sections are skipped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tilus.runtime.ptxemu.syntax import (
    Address,
    Call,
    Function,
    Guard,
    Imm,
    Instruction,
    Module,
    Not,
    Opaque,
    Operand,
    Pair,
    Pointer,
    Reg,
    Sink,
    Sym,
    Variable,
    Vector,
)
from tilus.runtime.ptxemu.traps import PtxSyntaxError
from tilus.runtime.ptxemu.types import TYPES

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\f]+|//[^\n]*)
  | (?P<newline>\n)
  | (?P<comment>/\*.*?\*/)
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<number>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?
      |\d+\.\d*(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)|\d+U?)
  | (?P<name>\.[\w$]+|[%$_A-Za-z][\w$]*(?:(?:\.|::)[\w$]+)*)
  | (?P<mark>[{}()\[\]<>,;:@!+\-*|=&])
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACES = {"global", "const", "shared", "local", "param"}
_SIZES = {".maxntid", ".reqntid", ".minnctapersm", ".maxnreg", ".maxnctapersm", ".maxclusterrank"}
_IGNORED = {".noreturn", ".explicitcluster", ".unified", ".blocksareclusters", ".abi_preserve"}


class Token(NamedTuple):
    """A word of the text and its line."""

    kind: str
    text: str
    line: int


def parse(text: str) -> Module:
    """Read PTX text.

    Raises:
        PtxSyntaxError: the text is not PTX, or uses what the parser does not know.
    """
    return _Parser(text).module()


def _tokens(text: str, lines: list[str]) -> Iterator[Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise PtxSyntaxError(f"unexpected {text[at]!r}", line, lines[line - 1])
        at, kind, found = match.end(), match.lastgroup or "", match.group()
        if kind == "newline":
            line += 1
        elif kind == "comment":
            line += found.count("\n")
        elif kind != "space":
            yield Token(kind, found, line)
    yield Token("end", "", line)


@dataclass
class _Scope:
    """What is declared between two braces: the name written -> the name it gets."""

    suffix: str
    names: dict[str, str] = field(default_factory=dict)


class _Parser:
    def __init__(self, text: str) -> None:
        self.lines = [*text.split("\n"), ""]
        self.tokens = list(_tokens(text, self.lines))
        self.at = 0
        self.out = Module()
        self.function = Function("", False)
        self.scopes: list[_Scope] = []  # one for each open brace
        self.scope_count = 0
        self.loc = ""

    # --- tokens ---

    def error(self, message: str) -> PtxSyntaxError:
        line = self.tokens[self.at].line
        return PtxSyntaxError(message, line, self.lines[line - 1])

    def next(self) -> str:
        token = self.tokens[self.at]
        self.at += 1
        return token.text

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)].text

    def accept(self, text: str) -> bool:
        if self.tokens[self.at].text == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(f"expected {text!r}, found {self.peek()!r}")

    def name(self) -> str:
        if self.tokens[self.at].kind != "name":
            raise self.error(f"expected a name, found {self.peek()!r}")
        return self.next()

    def integer(self) -> int:
        negative = self.accept("-")
        if self.tokens[self.at].kind != "number":
            raise self.error(f"expected a number, found {self.peek()!r}")
        value = _integer(self.next())
        return -value if negative else value

    def skip_line(self) -> None:
        line = self.tokens[self.at].line
        while self.tokens[self.at].line == line and self.tokens[self.at].kind != "end":
            self.at += 1

    def skip_to(self, end: str) -> None:
        while self.next() != end:
            if self.tokens[self.at].kind == "end":
                raise self.error(f"expected {end!r} before the end of the text")

    # --- module level ---

    def module(self) -> Module:
        while self.tokens[self.at].kind != "end":
            self.module_item()
        for function in self.out.functions.values():  # files may be named after the code
            for i in function.code:
                if i.loc:
                    file, line = i.loc.split(":")
                    i.loc = f"{self.out.files.get(int(file), f'file {file}')}:{line}"
        return self.out

    def module_item(self) -> None:
        word = self.peek()
        if word == ".version":
            self.next()
            self.out.version = self.next()
        elif word == ".target":
            self.next()
            self.out.target = self.next()
            while self.accept(","):
                self.next()
        elif word == ".address_size":
            self.at += 2
        elif word == ".file":
            self.next()
            number = self.integer()
            self.out.files[number] = self.peek().strip('"').rsplit("/", 1)[-1]
            self.skip_line()
        elif word == ".section":
            self.skip_to("{")
            self.skip_to("}")
        elif word in (".pragma", ".alias"):
            self.skip_to(";")
        elif word in (".visible", ".extern", ".weak", ".common"):
            self.next()
        elif word in (".entry", ".func"):
            self.read_function(self.next() == ".entry")
        elif word.lstrip(".") in _SPACES:
            for variable in self.variables():
                self.out.variables[variable.name] = variable
        else:
            raise self.error(f"unknown at the top of a module: {word!r}")

    def variables(self) -> list[Variable]:
        """`.shared .align 16 .b8 a[64], b[8];`, up to its semicolon."""
        first = self.variable()
        out = [first]
        while self.accept(","):
            out.append(self.declarator(first.space, first.type.name, first.align, 1))
        self.expect(";")
        return out

    def variable(self, space: str = "") -> Variable:
        """One variable or parameter without what ends it."""
        kind, align, lanes = "", 0, 1
        while self.peek().startswith("."):
            word = self.next()[1:]
            if word in _SPACES or word == "reg":
                space = space or word
            elif word == "align":
                align = self.integer()
            elif word == "ptr":  # .ptr .global .align 1: about what the pointer points to
                while self.peek() in (".global", ".const", ".shared", ".local", ".align"):
                    if self.next() == ".align":
                        self.integer()
            elif word in ("v2", "v4"):
                lanes = int(word[1:])
            elif word in TYPES:
                kind = word
            elif not word.startswith("attribute"):
                raise self.error(f"unknown in a declaration: .{word}")
        if not kind:
            raise self.error("a declaration without a type")
        return self.declarator(space, kind, align, lanes)

    def declarator(self, space: str, kind: str, align: int, lanes: int) -> Variable:
        name = "_" if self.peek() in (",", ")") else self.name()
        count, is_array = lanes, False
        while self.accept("["):
            is_array = True
            size = 0 if self.peek() == "]" else self.integer()
            count *= size
            self.expect("]")
        t = TYPES[kind]
        out = Variable(name, space, t, count, align or t.nbytes * lanes, is_array=is_array)
        if self.accept("="):
            out.initial = list(self.initialiser())
            if is_array and count == 0:
                out.count = len(out.initial)
        return out

    def initialiser(self) -> Iterator[Imm | Pointer]:
        if self.accept("{"):
            while not self.accept("}"):
                yield from self.initialiser()
                self.accept(",")
        elif self.tokens[self.at].kind == "name":
            name = self.name()
            if name == "generic":
                self.expect("(")
                name = self.name()
                self.expect(")")
            yield Pointer(name, self.sign_and_offset())
        else:
            yield self.immediate()

    def sign_and_offset(self) -> int:
        if self.accept("+"):
            return self.integer()
        return self.integer() if self.peek() == "-" else 0

    # --- functions ---

    def read_function(self, is_entry: bool) -> None:
        results = self.parameters()
        function = Function(self.name(), is_entry, self.parameters(), results)
        while self.peek() not in ("{", ";"):
            word = self.peek()
            if word in _SIZES:
                self.next()
                sizes = [self.integer()]
                while self.accept(","):
                    sizes.append(self.integer())
                if word == ".maxntid":
                    function.max_threads = tuple(sizes)
                elif word == ".reqntid":
                    function.required_threads = tuple(sizes)
            elif word in _IGNORED:
                self.next()
            elif word == ".pragma":
                self.skip_to(";")
            else:
                raise self.error(f"unknown before a function's body: {word!r}")
        self.function = function
        if not self.accept(";"):
            self.body()
        known = self.out.functions.get(function.name)
        if known is None or function.has_body:
            self.out.functions[function.name] = function

    def parameters(self) -> list[Variable]:
        out: list[Variable] = []
        if self.accept("("):
            while not self.accept(")"):
                out.append(self.variable("param"))
                self.accept(",")
        return out

    def body(self) -> None:
        self.function.has_body = True
        self.loc = ""
        self.expect("{")
        self.scopes = []
        self.open_scope()
        while self.scopes:
            self.body_item()

    def open_scope(self) -> None:
        """Begin a scope, with its labels: they may be used before they stand."""
        scope = _Scope(f"@{self.scope_count}" if self.scopes else "")
        self.scope_count += 1
        self.scopes.append(scope)
        depth, at = 1, self.at
        while depth:
            token = self.tokens[at]
            if token.kind == "end":
                raise self.error("expected '}' before the end of the text")
            depth += (token.text == "{") - (token.text == "}")
            if depth == 1 and token.kind == "name" and self.tokens[at + 1].text == ":":
                self.declare(token.text)
            at += 1

    def body_item(self) -> None:
        word = self.peek()
        if word == "}":
            self.next()
            self.scopes.pop()
        elif word == "{":
            self.next()
            self.open_scope()
        elif word == ".reg":
            self.next()
            self.registers()
        elif word == ".loc":
            self.next()
            file, line = self.integer(), self.integer()
            self.loc = f"{file}:{line}"
            self.at -= 1
            self.skip_line()
        elif word in (".pragma", ".callprototype", ".calltargets"):
            self.skip_to(";")
        elif word.lstrip(".") in _SPACES and word.startswith("."):
            for variable in self.variables():
                variable.name = self.declare(variable.name)
                self.function.variables.append(variable)
        elif self.tokens[self.at].kind == "name" and self.peek(1) == ":":
            self.label()
        else:
            self.instruction()

    def label(self) -> None:
        name = self.resolve(self.name())
        self.expect(":")
        if self.accept(".branchtargets"):
            targets = [self.resolve(self.name())]
            while self.accept(","):
                targets.append(self.resolve(self.name()))
            self.expect(";")
            self.function.branch_targets[name] = tuple(targets)
        elif self.peek() in (".callprototype", ".calltargets"):
            self.skip_to(";")
        else:
            self.function.labels[name] = len(self.function.code)

    def declare(self, name: str) -> str:
        scope = self.scopes[-1]
        scope.names[name] = name + scope.suffix
        return scope.names[name]

    def resolve(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope.names:
                return scope.names[name]
        return name

    def registers(self) -> None:
        """`.reg .b32 %r<8>, %a;`"""
        kind = self.name()[1:]
        if kind in ("v2", "v4") or kind not in TYPES:
            raise self.error(f"registers of type .{kind} are not known")
        while True:
            name = self.name()
            if self.accept("<"):
                names = [f"{name}{i}" for i in range(self.integer())]
                self.expect(">")
            else:
                names = [name]
            for one in names:
                self.function.registers[self.declare(one)] = TYPES[kind]
            if not self.accept(","):
                break
        self.expect(";")

    # --- instructions ---

    def instruction(self) -> None:
        line = self.tokens[self.at].line
        guard = None
        if self.accept("@"):
            negated = self.accept("!")
            guard = Guard(Reg(self.resolve(self.name())), negated)
        opcode, *modifiers = self.name().replace("::", "__").split(".")
        modifiers = [m.replace("__", "::") for m in modifiers]
        args: tuple[Operand, ...] = ()
        if opcode == "call":
            self.function.calls[len(self.function.code)] = self.call()
        elif self.peek() != ";":
            operands = [self.operand()]
            while self.accept(","):
                operands.append(self.operand())
            args = tuple(operands)
        self.expect(";")
        text = self.lines[line - 1].split("//")[0].strip()
        mods = tuple(modifiers)
        one = Instruction(opcode, mods, args, guard, line, text, self.loc, self.function.name)
        self.function.code.append(one)

    def call(self) -> Call:
        results: list[str] = []
        if self.peek() == "(":
            results = [a.name for a in self.call_list() if isinstance(a, Sym)]
            self.expect(",")
        callee = self.resolve(self.name())
        arguments: list[Operand] = []
        if self.accept(","):
            if self.peek() == "(":
                arguments = self.call_list()
                if self.accept(","):
                    self.name()
            else:
                self.name()  # the prototype of a call through a register
        return Call(tuple(results), callee, tuple(arguments))

    def call_list(self) -> list[Operand]:
        self.expect("(")
        out: list[Operand] = []
        while not self.accept(")"):
            out.append(self.operand())
            self.accept(",")
        return out

    def operand(self) -> Operand:
        first = self.simple_operand()
        return Pair(first, self.simple_operand()) if self.accept("|") else first

    def simple_operand(self) -> Operand:
        if self.accept("{"):
            items = [self.operand()]
            while self.accept(","):
                items.append(self.operand())
            self.expect("}")
            return Vector(tuple(items))
        if self.accept("["):
            return self.address()
        if self.accept("!"):
            return Not(Reg(self.resolve(self.name())))
        if self.tokens[self.at].kind == "number" or self.peek() == "-":
            return self.immediate()
        if self.accept("_"):
            return Sink()
        named = self.reg_or_sym(self.name())
        if isinstance(named, Sym):
            return Sym(named.name, self.sign_and_offset())
        return named

    def reg_or_sym(self, name: str) -> Reg | Sym:
        own = self.resolve(name)
        special = name.startswith("%") and own == name
        return Reg(own) if own in self.function.registers or special else Sym(own)

    def address(self) -> Operand:
        start = self.at
        number = self.tokens[self.at].kind == "number"
        base = Imm(self.integer()) if number else self.reg_or_sym(self.name())
        offset = self.sign_and_offset()
        if self.accept("]"):
            return Address(base, offset)
        self.skip_to("]")
        return Opaque(" ".join(t.text for t in self.tokens[start : self.at - 1]))

    def immediate(self) -> Imm:
        negative = self.accept("-")
        token = self.tokens[self.at]
        if token.kind != "number":
            raise self.error(f"expected a number, found {token.text!r}")
        self.next()
        text = token.text
        if text[:2] in ("0f", "0F"):
            return Imm(int(text[2:], 16) ^ negative << 31, 32)
        if text[:2] in ("0d", "0D"):
            return Imm(int(text[2:], 16) ^ negative << 63, 64)
        if not text[:2].lower() == "0x" and ("." in text or "e" in text.lower()):
            value = -float(text) if negative else float(text)
            return Imm(struct.unpack("<Q", struct.pack("<d", value))[0], 64)
        value_int = _integer(text)
        return Imm(-value_int if negative else value_int)


def _integer(text: str) -> int:
    text = text.rstrip("U")
    if text[:2].lower() in ("0x", "0b"):
        return int(text, 0)
    return int(text, 8) if len(text) > 1 and text[0] == "0" else int(text)
