"The export moves trailing comments of parameters into docstrings and changes no other code."
import ast
import inspect
import io
import tokenize
from pathlib import Path

import pytest

from vidneg.core.records import Negative, read_records
from vidneg.pipeline.export import WIDTH, document

ROOT = Path(__file__).parents[1]


def bare(code):
    "Return the syntax tree of code without docstrings."
    tree = ast.parse(code)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if documented and ast.get_docstring(node) is not None: node.body = node.body[1:]
    return ast.dump(tree)


def docstring(code):
    nodes = ast.walk(ast.parse(code))
    return ast.get_docstring(next(n for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))))


@pytest.mark.parametrize("code, expected", [
    ('def f(\n    a, # one\n    b="#", # two\n) -> int: # three\n    "Add."\n    return a # four',
     "Add.\n\nArgs:\n    a: one\n    b: two\n\nReturns:\n    three"),
    ('def f(x) -> str: # a text\n    "Write."', "Write.\n\nReturns:\n    a text"),
    ('def f(\n    *rest: int, # all others\n    k=(1,\n       2), # two lines\n    **named, # by name\n):\n    "Take."',
     "Take.\n\nArgs:\n    *rest: all others\n    k: two lines\n    **named: by name"),
    ('def f(\n    a: int, # \\alpha, "quoted"\n):\n    "Greek."', 'Greek.\n\nArgs:\n    a: \\alpha, "quoted"'),
    ("def f(\n    a, # of two\n):\n    '''One.\n\n    More.\n    '''", "One.\n\nMore.\n\nArgs:\n    a: of two"),
    ('def f(\n    a, # raw\n):\n    r"Raw \\beta."', "Raw \\beta.\n\nArgs:\n    a: raw"),
    ('class C:\n    "A thing."\n    a: int # a number\n    b: dict = {} # by name\n    c = 3 # no field',
     "A thing.\n\nAttributes:\n    a: a number\n    b: by name"),
    ('def f(\n    a, # first\n    # and more\n) -> dict: # ids,\n    # mask\n    "Both."\n    # not this',
     "Both.\n\nArgs:\n    a: first and more\n\nReturns:\n    ids, mask"),
    ('class C(Base):\n    "A model."\n'
     '    def __init__(self,\n        width: int = 3, # channels\n    ):\n        self.width = width # w',
     "A model.\n\nArgs:\n    width: channels"),
    ('class C:\n    "A model."\n'
     '    def __init__(self,\n        width, # channels\n    ): self.width = width',
     "A model.\n\nArgs:\n    width: channels"),
    ('async def f(\n    a, # late\n):\n    "Wait."', None),
])
def test_comments_become_sections(code, expected):
    written = document(code)
    assert bare(written) == bare(code)
    if expected is not None: assert docstring(written) == expected
    else: assert "a: late" in written


@pytest.mark.parametrize("code", [
    "def f(a): return a # not documented", "def f(\n    a, # no docstring\n):\n    return a",
    "x = 1 # one", "", "# nothing",
    'def f(a):\n    "Nothing to move."\n    return a # the same',
    'class C:\n    "No fields."\n    def f(self): pass # not it'])
def test_other_code_stays_as_it_is(code):
    assert document(code) == code


def test_a_long_comment_is_wrapped_and_a_short_signature_joined():
    written = document('def f(\n    a, # ' + "word "*40 + '\n    b, # second\n):\n    "Do."')
    assert written.startswith("def f(a, b):\n") and max(map(len, written.split("\n"))) <= WIDTH
    assert docstring(written).split("b: second")[0].count("word") == 40


def test_signatures_in_the_package_carry_no_comments_beside_a_docstring():
    left = []
    for path in sorted((ROOT/"vidneg").rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        rows = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.COMMENT}
        tree = ast.parse(code)
        functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
        functions += [m for c in tree.body if isinstance(c, ast.ClassDef)
                      for m in c.body if isinstance(m, ast.FunctionDef)]
        left += [f"{path.name}: {f.name}" for f in functions if ast.get_docstring(f)
                 and rows & set(range(f.lineno, f.body[0].lineno))]
    assert not left


def test_help_shows_parameters():
    shown = inspect.getdoc(read_records)
    assert "Args:" in shown and "path: " in shown and "Returns:" in shown
    assert "caption_id: " in inspect.getdoc(Negative)
