"The page of all results: its parts against plain loops, its videos, its text in a browser."
import re
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.records import Clip
from vidneg.data.video import probe
from vidneg.evaluate.accuracy import toy_scores
from vidneg.report.gallery import (
    Span,
    answers,
    blocks,
    choose_clips,
    figures_of,
    marked,
    media_name,
    sections_of,
    shrink,
    spans,
    verdict,
    write_gallery,
    write_media,
)

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def film(path, n=24, side=(64, 64), fps=8):
    "Write n frames in which a gray level rises."
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=fps, options={"crf": "18", "x264-params": "threads=1"})
        stream.height, stream.width, stream.pix_fmt = *side, "yuv420p"
        for t in range(n):
            image = np.full((*side, 3), 40 + 150*t//n, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return str(path)


@pytest.fixture(scope="module")
def scores(): return toy_scores({"blind": 0, "vanilla": .4, "navero": 1.3}, clips=30, forms=["balanced"])


@pytest.fixture(scope="module")
def made(tmp_path_factory, scores):
    "A folder of reports with its page; one clip cannot be read, and all texts are hostile."
    folder = tmp_path_factory.mktemp("it's a page")
    reports, path = folder/"reports", film(folder/"film.mp4")
    for name, text in {"claims.md": f"# Claims\n\n{HOSTILE}\n\n## NAVERO\n\n| Claim |\n| :-- |\n| *holds* |\n",
                       "tables/main.md": "| Model | acc |\n| :-- | --: |\n| Blind | 51.3 |\n",
                       "audit/audit.md": "# Audit\n\n[a set](a-set.html)\n", "audit/a-set.html": "",
                       "figures/new-one.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>"}.items():
        (reports/name).parent.mkdir(parents=True, exist_ok=True)
        (reports/name).write_text(text)
    items = scores[scores.run == "navero"][["item", "clip_id", "kind", "form", "generator"]].assign(
        caption=f"a dog runs {HOSTILE}", negative=f"a dog sits {HOSTILE}")
    ids = sorted(set(items.clip_id))
    clips = {c: Clip(c, path, 0, 3) for c in ids} | {ids[0]: Clip(ids[0], str(folder/"gone.mp4"))}
    return write_gallery(reports, items, scores, clips, data=HOSTILE, n=30, media_kb=200), items, clips


def test_markdown_is_split_into_parts():
    assert spans("`acc` is *high*, [see](x/y.html)", "audit/") == [
        Span("acc", "code"), Span(" is "), Span("high", "em"), Span(", "), Span("see", "a", "audit/x/y.html")]
    assert spans("[x](//host/a) [y](/etc/passwd) [z](http://a)") == [Span("[x](//host/a) [y](/etc/passwd) [z](http://a)")]
    heading, table, text = blocks("## A\n| a | b |\n| :-- | --: |\n| x \\| y | 1 |\n\none\ntwo\n")
    assert heading == {"heading": "A"} and text == {"text": [Span("one two")]}
    assert table["rows"] == [[[Span("x | y")], [Span("1")]]] and table["right"] == [False, True]


def test_answers_equal_the_plain_loop(scores):
    scores = scores.copy()
    scores.loc[scores.run == "vanilla", ["p_pos", "p_neg"]] = np.nan
    tie = scores.index[scores.run == "navero"][0]
    scores.loc[tie, "p_neg"] = scores.loc[tie, "p_pos"]
    judged = answers(scores)
    for r in judged.itertuples():
        a, b = (r.score_pos, r.score_neg) if r.run == "vanilla" else (r.p_pos, r.p_neg)
        assert r.right == (a > b) and r.margin == pytest.approx(a - b)
    assert not judged.right[tie]
    with pytest.raises(VidnegError, match="no scores"): answers(scores[:0])


def test_half_of_the_clips_are_the_worst_mistakes_and_the_order_of_rows_does_not_matter(scores):
    judged = answers(scores)
    worst = {}
    for r in judged.itertuples():
        if r.run == "vanilla": worst[r.clip_id] = min(worst.get(r.clip_id, 9), r.margin)
    expected = sorted((c for c in worst if worst[c] <= 0), key=lambda c: (worst[c], c))[:5]
    chosen = choose_clips(judged, "vanilla", 10)
    assert chosen[::2] == expected and len(set(chosen)) == 10
    assert choose_clips(judged[::-1], "vanilla", 10) == chosen
    assert choose_clips(judged, "vanilla", 10, seed=1)[1::2] != chosen[1::2]
    assert set(choose_clips(judged, "vanilla", 1000)) == set(worst)
    with pytest.raises(VidnegError, match="'none'.*blind, vanilla, navero"): choose_clips(judged, "none")


def test_an_edit_is_marked_and_the_negative_stays_readable():
    parts = marked("a dog runs", "a dog sits")
    assert [(s.text, s.tag) for s in parts] == [("a dog ", ""), ("runs", "del"), ("sits", "mark")]
    assert "".join(s.text for s in parts if s.tag != "del") == "a dog sits"


def test_a_small_video_keeps_its_duration_and_its_shape(tmp_path):
    clip = Clip("a", film(tmp_path/"a.mp4", n=100, side=(120, 320), fps=10), 2, 10)
    sizes = [shrink(clip, tmp_path/name, side=51, fps=5, most=20) for name in ("b.mp4", "c.mp4")]
    info = probe(tmp_path/"b.mp4")
    assert (tmp_path/"b.mp4").read_bytes() == (tmp_path/"c.mp4").read_bytes()
    assert sizes[0] == (tmp_path/"b.mp4").stat().st_size
    assert (info.n_frames, info.height, info.width) == (20, 52, 136) and abs(info.duration - 8) < .5
    shrink(Clip("s", clip.path, 0, .05), tmp_path/"d.mp4")
    assert probe(tmp_path/"d.mp4").n_frames == 1


def test_the_media_fit_into_the_budget(tmp_path):
    path = film(tmp_path/"a.mp4")
    clips = {c: Clip(c, path, 0, 3) for c in "abcdef"}
    one = shrink(clips["a"], tmp_path/"one.mp4")
    found = write_media("abcdef", clips, tmp_path/"out", media_kb=-(-3*one//1000))
    size = sum(f.stat().st_size for f in (tmp_path/"out").iterdir())
    assert 3 <= len(found) == len(list((tmp_path/"out").iterdir())) < 6 and size <= 1000*-(-3*one//1000)


def test_names_of_media_are_safe():
    assert media_name("clip_01-a") == "clip_01-a.mp4"
    odd = ["../x", "a b", "", "a/b", "ä", "a"*61, "-x", "\ud800", "x\n", ".hidden"]
    assert len({media_name(x) for x in odd}) == len(odd)
    assert all(re.fullmatch(r"[0-9a-f]{16}\.mp4", media_name(x)) for x in odd)


def test_the_page_shows_every_score_and_every_link_leads_to_a_file(made, scores):
    page, items, _ = made
    text = page.read_text(encoding="utf-8")
    assert text.count('<tr data-k=') == len(items) and "no video: no such file" in text
    for r in scores[scores.run == "navero"].itertuples(): assert f"{r.p_pos:.2f}/{r.p_neg:.2f}" in text
    links = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert links and all((page.parent/link).is_file() for link in links)
    assert "://" not in text and text.count("<script") == 1 and "audit/a-set.html" in links
    assert [s["title"] for s in sections_of(page.parent)] == ["Claims", "Tables", "Audits of the negatives"]
    assert figures_of(page.parent) == [{"title": "new one", "path": "figures/new-one.svg"}]


def test_the_same_input_gives_the_same_bytes(made, scores, tmp_path):
    page, items, clips = made
    shutil.copytree(page.parent, tmp_path/"reports")
    again = write_gallery(tmp_path/"reports", items[::-1], scores.sample(frac=1, random_state=1), clips, data=HOSTILE,
                          n=30, media_kb=200)
    for path in page.parent.glob("gallery/*"):
        assert path.read_bytes() == (again.parent/"gallery"/path.name).read_bytes()
    shown = [re.findall(r'<p class="small">(clip\d+)', p.read_text(encoding="utf-8")) for p in (page, again)]
    assert shown[0] == shown[1]


def test_the_sentences_say_what_the_files_say():
    columns = ["source", "model", "form", "metric", "category", "value", "low", "high", "n", "clips"]
    numbers = pd.DataFrame([("ours", "navero", "balanced", "acc", "average", 80.9, 78.8, 83.1, 1818., 600.),
                            ("ours", "blind", "balanced", "acc", "average", 51.3, 48.7, 53.9, 1818., 600.),
                            ("paper", "vanilla", "balanced", "acc", "average", 1, 1, 1, 1, 1)], columns=columns)
    claims = pd.DataFrame({"verdict": ["holds", "holds", "open", "reversed"], "n": [9, 9, 0, 9]})
    said = verdict(numbers, claims, "navero")
    assert "80.9 [78.8, 83.1] %" in said[0] and "51.3" in said[0] and "1818 items of 600 clips" in said[0]
    assert "Vanilla" not in said[0]
    assert "4 claims" in said[1] and "holds 2, reversed 1, open 1, for lack of data 1" in said[1]
    assert verdict(numbers[:0], claims[:0], "navero") == ["No table and no claim was made yet."]


CHECK = """<script>
var videos = Array.from(document.querySelectorAll("video")), out = [], form = document.getElementById("filter");
function count() {
  return Array.from(document.querySelectorAll("tr[data-m]")).filter(function (r) { return r.offsetParent; }).length;
}
function choose(name, value) { form[name].value = value; form.dispatchEvent(new Event("change")); out.push(count()); }
out.push(count()); choose("answer", "wrong"); choose("kind", "Action"); choose("run", "0"); choose("answer", "");
choose("run", ""); choose("kind", "");
document.body.dataset.counts = out.join(" ");
videos[0].addEventListener("timeupdate", function () { document.body.dataset.time = videos[0].currentTime; });
videos[0].play().catch(function (e) { document.body.dataset.failed = e; });
</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium (apt install chromium)")
def test_the_page_works_in_a_browser_without_network(made, scores, tmp_path):
    page, items, _ = made
    checked = page.with_name("checked.html")
    checked.write_text(page.read_text(encoding="utf-8").replace("</body>", CHECK + "</body>"), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
               "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={tmp_path}",
               "--virtual-time-budget=5000", "--dump-dom", checked.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    checked.unlink()
    assert "<title>Results on &lt;/script&gt;" in done.stdout, done.stderr[-2000:]
    judged = answers(scores)
    by = {run: own for run, own in judged.groupby("run")}
    wrong = ~by["navero"].right
    action = by["navero"].kind == "action"
    n = len(items)
    blind = by["blind"]
    expected = [n, wrong.sum(), (wrong & action).sum(), ((blind.kind == "action") & ~blind.right).sum(), action.sum(),
                action.sum(), n]
    assert re.search(r'data-counts="([\d ]+)"', done.stdout)[1] == " ".join(map(str, expected))
    assert "data-failed" not in done.stdout and float(re.search(r'data-time="([\d.]+)"', done.stdout)[1]) >= 0


def test_the_template_is_in_the_package():
    import vidneg
    assert (Path(vidneg.__file__).parent/"report/gallery.html").is_file()
