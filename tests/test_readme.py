"README.md is made from a notebook: shown and hidden cells, links, tables, and whether it is current."
import base64

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vidneg.pipeline.readme import main, render_readme, to_markdown, write_readme

PNG = base64.b64encode(b"\x89PNG picture").decode()


def shown(*cells):
    return to_markdown(new_notebook(cells=list(cells)))["README.md"].decode()


def test_directives_hide_cells_and_code():
    text = shown(new_code_cell("#| hide\nimport os"),
                 new_code_cell("#| echo: false\nx = 1", outputs=[new_output("stream", text="one\n")]),
                 new_code_cell("#| eval: false\ny = 2"))
    assert "import os" not in text and "x = 1" not in text and "#|" not in text
    assert "one" in text and "y = 2" in text


def test_warnings_are_left_out():
    assert "careful" not in shown(new_code_cell("f()", outputs=[new_output("stream", name="stderr", text="careful")]))


def test_links_are_relative_to_the_readme():
    text = shown(new_markdown_cell(
        '[t](../reports/t.csv) <img src="../reports/f.svg"> [web](https://x.org/../y) `../`'))
    for wanted in ("(reports/t.csv)", 'src="reports/f.svg"', "https://x.org/../y", "`../`"):
        assert wanted in text


def test_tables_become_markdown_and_images_become_files():
    table = new_output("display_data", {"text/html": "<table>", "text/markdown": "| a |\n|---|", "text/plain": "a"})
    picture = new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})
    files = to_markdown(new_notebook(cells=[new_code_cell("show()", outputs=[table, picture])]))
    text = files.pop("README.md").decode()
    assert "| a |" in text and "<table>" not in text and "<Figure>" not in text
    (name, content), = files.items()
    assert name.startswith("reports/figures/readme") and f"({name})" in text and content == b"\x89PNG picture"


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path/"nbs").mkdir()
    (tmp_path/"settings.ini").touch()
    (tmp_path/"result.txt").write_text("0.75")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_index(root, *sources):
    nbformat.write(new_notebook(cells=[*map(new_code_cell, sources)]), root/"nbs/index.ipynb")


@pytest.mark.slow
def test_readme_follows_the_results(root, capsys):
    write_index(root, "print(open('../result.txt').read())")
    assert main([]) == 0 and "0.75" in (root/"README.md").read_text()
    assert render_readme(root)["README.md"] == (root/"README.md").read_bytes()
    assert main(["--check"]) == 0 and write_readme(root) == []
    (root/"result.txt").write_text("0.80")
    assert main(["--check"]) == 1
    assert "README.md; run `make readme`" in capsys.readouterr().err


def test_failing_notebook_keeps_the_readme(root, capsys):
    (root/"README.md").write_text("as it was")
    write_index(root, "1/0")
    assert main([]) == 1 and "ZeroDivisionError" in capsys.readouterr().err
    assert (root/"README.md").read_text() == "as it was"
