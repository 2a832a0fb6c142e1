"The style of docstrings, comments and lines of the package, as far as a program can check it; README and imports."
import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
MODULES = [p for p in sorted((ROOT/"vidneg").rglob("*.py")) if p.name != "_modidx.py" and p.stat().st_size]
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
QUESTION = re.compile(r"(What|How|Whether|Who|Whom|Which|Where|When|Why)\b")
NO_VERB = re.compile(r"(The|A|An|All|Each|Every|Of|As|In|One|Two|For|From|If|No|Number|Share)\b")


def summaries(path):
    "Yield each documented function, class or module, with the first paragraph of its docstring."
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text: yield node, text.split("\n\n")[0].strip()


def faults(node, text):
    if QUESTION.match(text): yield "opens with a question word"
    if isinstance(node, ast.FunctionDef) and NO_VERB.match(text): yield "does not start with a verb"
    if not text.endswith((".", ":", ")")): yield "has no full stop"


@each_module
def test_docstrings_start_with_a_verb_and_end_with_a_full_stop(path):
    found = [f"{fault}: {text}" for node, text in summaries(path) for fault in faults(node, text)]
    assert not found


def test_faulty_docstrings_are_found():
    texts = ["What comes back", "The mean.", "Return the mean."]
    nodes = [ast.parse(f'def f():\n    "{text}"').body[0] for text in texts]
    found = [list(faults(node, text)) for node, text in zip(nodes, texts)]
    assert found == [["opens with a question word", "has no full stop"], ["does not start with a verb"], []]


@each_module
def test_every_module_says_what_it_is_for(path):
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@each_module
def test_comments_stand_alone(path):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    comments = [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT]
    assert not [c for c in comments if re.match(r"(of|what|how|whether|who|which)\b", c)]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = [n for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    lines = [line.strip() for node in documented for line in (ast.get_docstring(node) or "").splitlines()]
    assert not [line for line in lines if re.match(r"\*{0,2}\w+: (of|what|how|whether|who|which)\b", line)]


@each_module
def test_lines_are_short_and_hold_one_statement(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120]
    two = re.compile(r"\s*(if|for|while|elif|else|with)\b.*: ?(return|raise|continue|break|yield)\b")
    assert not [line for line in lines if len(line) > 110 and two.match(line)]


def test_readme_is_short():
    assert len((ROOT/"README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_code_of_the_readme_prints_the_output_shown_there(tmp_path):
    cells = nbformat.read(ROOT/"nbs/index.ipynb", 4).cells
    code = next(c.source for c in cells if c.cell_type == "code" and c.source.startswith("import vidneg"))
    readme = (ROOT/"README.md").read_text(encoding="utf-8")
    assert code in readme
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    shown = "".join(f"    {line}\n" for line in done.stdout.splitlines())
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 4 and shown in readme


def test_the_package_offers_the_same_names_to_users_and_type_checkers():
    tree = ast.parse((ROOT/"vidneg/__init__.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    places = ast.literal_eval(assigned["_PLACES"])
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: node.module.removeprefix("vidneg").lstrip(".") for node in block.body for a in node.names}
    assert seen.pop("audit") == seen.pop("probe") == ""
    assert seen == places


def test_importing_vidneg_imports_no_large_package():
    code = ("import sys, vidneg\nassert not {'numpy', 'pandas', 'torch', 'spacy'} & {*sys.modules}\n"
            "caption = vidneg.Caption('c', 'v', 'a dog runs')\n"
            "as_published = vidneg.rules_published(vidneg.Lexicon.navero())\n"
            "negatives, _ = vidneg.make_negatives([caption], as_published)\n"
            "vidneg.audit(negatives, [caption])\nassert not {'torch', 'spacy', 'transformers'} & {*sys.modules}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
