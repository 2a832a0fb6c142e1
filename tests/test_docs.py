"The documentation's site: complete, with links that hold, and without anything from the network."
import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("zensical", reason="pip install 'vidneg[docs]'")
from vidneg.pipeline.docs import build, drawn, map_of, output_html, plain, relinked, signature, with_mathml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "Make the site once, with proxies that answer nothing: whoever asks the network fails."
    out = tmp_path_factory.mktemp("docs")/"site"
    dead = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    done = subprocess.run([sys.executable, "-m", "vidneg.pipeline.docs", "--out", str(out)], cwd=ROOT,
                          env={**os.environ, **dead}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {p.relative_to(out).as_posix(): p.read_text(encoding="utf-8") for p in out.rglob("*.html")}, out


@pytest.mark.slow
def test_every_notebook_and_room_has_a_page(site):
    pages, _ = site
    order, _ = map_of(ROOT)
    lessons = {f"{room}/{name}.html".lstrip("/") for room, names in order.items() for name in names.split()}
    assert lessons <= pages.keys()
    assert {"index.html", "contributing.html", "guides/probe.html", "api/losses.html"} <= pages.keys()
    assert 'id="losses.hard.hn_nce"' in pages["api/losses.html"]


@pytest.mark.slow
def test_nothing_comes_from_the_network(site):
    pages, out = site
    tags = re.compile(r"<(?:link|script|img|iframe|source|video|object|embed)\b[^>]*?(?:href|src|data)=[\"']?(\w+:)?//")
    assert not [name for name, page in pages.items() if tags.search(page)]
    styles = [p.read_text(encoding="utf-8") for p in out.rglob("*.css")]
    assert styles and not [s for s in styles if re.search(r"url\([\"']?(https?:)?//|@import", s)]
    assert not [name for name, page in pages.items() if 'class="mermaid"' in page]


@pytest.mark.slow
def test_links_lead_somewhere(site):
    pages, out = site
    broken = []
    for name, page in pages.items():
        if name == "404.html": continue # its links are those of a server
        article = page[page.find("<article"):page.find("</article>")]
        for link in re.findall(r"""<(?:a|img)\b[^>]*?(?:href|src)="([^"]*)\"""", article):
            path, _, anchor = unquote(unescape(link)).partition("#")
            if re.match(r"\w+:", path): continue
            target = (out/name).parent.joinpath(path).resolve() if path else out/name
            if not target.is_file(): broken.append((name, link))
            elif anchor and f'id="{anchor}"' not in target.read_text(encoding="utf-8"): broken.append((name, link))
    assert not broken


@pytest.mark.slow
def test_formulas_and_outputs_are_in_their_places(site):
    pages, _ = site
    assert pages["guides/formulas.html"].count("<math") > 30
    left = re.compile('<(span|div) class="(arithmatex"|output" data)')
    assert not [name for name, page in pages.items() if left.search(page)]
    assert "prefers the caption to the negative" in pages["guides/probe.html"]


def test_pictures_are_copied_and_other_files_are_links_to_the_repository():
    shown = set()
    text = relinked("[a](../../params.yaml) ![b](../../reports/figures/cases.png) [c](#d) f[i](x) [e](../map.ipynb#g)",
                    "nbs/losses/hard.ipynb", ROOT, shown)
    assert text.split() == ["[a](https://github.com/vidneg/vidneg/blob/main/params.yaml)",
                            "![b](../reports/figures/cases.png)", "[c](#d)", "f[i](x)", "[e](../map.md#g)"]
    assert shown == {"reports/figures/cases.png"}


def test_text_of_outputs_is_not_html():
    from nbformat.v4 import new_output
    shown = output_html(new_output("stream", name="stdout", text="\x1b[31m<script>1</script>\x1b[0m\n"))
    assert shown == "<pre>&lt;script&gt;1&lt;/script&gt;</pre>"
    table = {"text/html": '<div><style scoped>\n x </style>\n<table border="1" class="dataframe"></table></div>'}
    assert output_html(new_output("display_data", table)) == "<div><table></table></div>"


def test_formulas_become_mathml():
    made = with_mathml('<div class="arithmatex">\\[a &lt; b\\]</div>')
    assert made.startswith("<math") and 'display="block"' in made and "<mo>&#x0003C;</mo>" in made


def test_docstrings_are_shown_as_they_are():
    assert plain("a_b *c* `d_e` [f] <g>") == r"a\_b \*c\* `d_e` \[f\] \<g\>"


def test_charts_become_lists():
    assert drawn("```mermaid\nflowchart LR\n  a[x, y] --> b\n```\n") == "- x, y → b\n"


def test_long_signatures_have_a_line_per_parameter():
    class Function:
        def signature(self, return_type): return "f(a: dict[str, int] = {}, *, " + "b: Callable[[int, str], None], " \
            "a_long_name_of_a_parameter: int | None = None, **rest) -> tuple[int, dict[str, list[str]]]"
    lines = signature(Function()).splitlines()
    assert lines == ["f(", "    a: dict[str, int] = {},", "    *,", "    b: Callable[[int, str], None],",
                     "    a_long_name_of_a_parameter: int | None = None,", "    **rest,",
                     ") -> tuple[int, dict[str, list[str]]]"]


def test_a_folder_of_others_is_left_alone(tmp_path, monkeypatch):
    from vidneg.core.errors import VidnegError
    from vidneg.pipeline import docs
    (tmp_path/"mine.txt").write_text("mine")
    monkeypatch.setattr(docs, "pages_of", lambda root, pictures: ([docs.Page("index.md", "# Home\n", [])],
                                                                  [{"Home": "index.md"}]))
    with pytest.raises(VidnegError, match="mine.txt"): build(ROOT, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == ["mine.txt"]
    settings = docs.configuration([])
    assert json.dumps(settings) and settings["theme"]["font"] is False and "repo_url" not in settings
