"Odd captions through every generator and the audit: nothing crashes, and every requested negative is counted."
import tempfile
import warnings
from pathlib import Path

from faults.checks import Case, Check, one_line

from vidneg.core.records import Attribute, Caption, Entity, Event, SceneGraph
from vidneg.core.seeds import stable_rng

PLAIN = ["a man rides a brown horse", "a woman puts two red cups on the table", "the dog is not on the left of the cat"]
SCRIPTS = ["кот спит на коврике", "猫が走る", "一只狗在跑", "개가 달린다", "كلب يجري", "כלב רץ", "सड़क पर कुत्ता",
           "สุนัขวิ่ง", "ένας σκύλος τρέχει", "შვილი", "𝔞 𝔪𝔞𝔫 𝔯𝔲𝔫𝔰", "ａ ｍａｎ ｒｕｎｓ", "a̸ m̷a̶n̴ r̵u̴n̷s̸",
           "İstanbul'da bir köpek", "ﬁve ﬂags"]
MARKS = ["🎈🎈", "👨‍👩‍👧‍👦 🏳️‍🌈", "a man 🏃 runs", "🇩🇪", "…", "—", "?!", "''''", "\"\"", "(((", "<b>&amp;</b>",
         "{0} %s {}", "\\n\\t\\0", "$(reboot)", "[MASK] [CLS] </s> <pad>", "<|endoftext|>", "{{ x }}", "`a`", "=1+2",
         "a,b;c\td", "1 2 3", "ß"*9, "I"*500]
SIGNS = ["\0", "\ufeff", "\ud800", "\udfff\ud800", "\u202e", "\u200b", "\u2028", "\x85", "\r\n", "\t", "\x1b[31m",
         "\u00ad", "\uffff", "\U0010ffff", "\u0301", "\x7f", "\xa0"]
LONG = 16_000 # words


def odd_captions(
    n, # number of captions, at least 1
    long=2, # number of captions of 16,000 words among them
    seed=0, # seed of all draws
):
    "Make captions of all sorts, in the order of their ids."
    texts = ["", " ", "\n", *SCRIPTS, *MARKS, *SIGNS, *(s + PLAIN[0] for s in SIGNS), *(PLAIN[1] + s for s in SIGNS)]
    for i in range(len(texts), n - long):
        rng, parts = stable_rng(seed, "odd", i), (SCRIPTS, MARKS, SIGNS, PLAIN, PLAIN)
        some = [(own := parts[rng.integers(len(parts))])[rng.integers(len(own))] for _ in range(rng.integers(1, 6))]
        text = ("" if rng.random() < .2 else " ").join(some)
        at = int(rng.integers(len(text) + 1))
        texts.append(text[:at] + SIGNS[rng.integers(len(SIGNS))] + text[at:] if rng.random() < .3 else text)
    texts = texts[:max(n - long, 0)] + [" ".join([PLAIN[i % 3]]*(LONG//6 + 1)) for i in range(long)]
    return [Caption(f"{i}", f"clip {i//3}", t) for i, t in enumerate(texts)]


def odd_graphs(captions):
    "Make a scene graph from each caption, if one may: its words are names, attributes and predicates."
    from vidneg.core.errors import VidnegError
    from vidneg.data.graphs import check_graph
    for c in captions:
        words = c.text.split(" ")[:8]
        a, b, w = words[0], words[-1], words[len(words)//2]
        entities = (Entity("a", a, (Attribute("color", w, 0., 1.),)), Entity("b", b))
        events = (Event("a", w, w, "b", "", 0., 1., "action"), Event("b", "", a, "", "", 1., 2., "action"))
        try: yield check_graph(SceneGraph(c.caption_id, w, entities, events))
        except VidnegError: continue # refused when it is read


def generators(folder, captions):
    "Return all generators, each with its items."
    from vidneg.lm.mlm import CaptionMlm, word_tokenizer
    from vidneg.negatives.components.make import ComponentGenerator
    from vidneg.negatives.components.natural import natural_components
    from vidneg.negatives.generate import GENERATORS
    from vidneg.negatives.mixed import lm_generator, mixed_generator
    from vidneg.negatives.mlm import NamedLm
    from vidneg.negatives.own import own_generator
    from vidneg.negatives.spot.captions import GrammarDecorator, SpotGenerator
    from vidneg.negatives.spot.events import MODES, SCHEMES, count_vocabulary
    from vidneg.negatives.spot.grammar import TemplateGrammar
    from vidneg.text.parse import NamedParser
    CaptionMlm(word_tokenizer(PLAIN), width=16, layers=1, heads=2).save(folder/"lm")
    lm, parser, rules = NamedLm(str(folder/"lm")), NamedParser(), own_generator(captions, "rules-published")
    graphs, scheme = [*odd_graphs(captions)], SCHEMES["activitynet"]
    events = count_vocabulary(graphs, scheme, True, MODES)
    spot = SpotGenerator(scheme, events, GrammarDecorator(TemplateGrammar()), MODES)
    balanced = own_generator(captions, "rules-balanced")
    made = {"rules-published": (rules, captions), "rules-checked": (own_generator(captions, "rules-checked"), captions),
            "rules-balanced": (balanced, captions),
            "lm": (lm_generator(lm, parser), captions), "mixed": (mixed_generator(rules, lm, parser), captions),
            "components": (ComponentGenerator(parser), captions), "spot": (spot, graphs),
            "natural": (own_generator(captions), captions),
            "natural-components": (natural_components(captions), captions)}
    assert made.keys() == set(GENERATORS)
    return made


def made_by(name, generator, items):
    "Make negatives of odd items; return the case and the negatives."
    from vidneg.negatives.generate import make_negatives
    try: made, counts = make_negatives(items, generator, mode="every")
    except Exception as e: return Case(name, one_line(e) or str(e), False), []
    kinds = generator.plan.kinds or generator.kinds
    wanted, n = len(items)*len(kinds), sum(k for (_, why), k in counts.items() if why == "made")
    good = counts.total() == wanted and n == len(made)
    return Case(name, "all requests counted" if good else f"{counts.total()} of {wanted} counted", good), made


def audited(name, negatives, captions):
    "Audit negatives; return the case."
    from vidneg.audit.page import audit_negatives, dossier_page
    try:
        dossier = audit_negatives(negatives, captions, name)
        text = dossier_page(dossier)
    except Exception as e: return Case(f"audit of {name}", one_line(e) or str(e), False)
    good = dossier.counts["pairs"] == len(negatives) and "\0" not in text and bool(text.encode())
    return Case(f"audit of {name}", "page written, all pairs counted" if good else str(dossier.counts), good)


def opened(captions):
    "Read the captions from tables of all forms; return a case for each."
    import json

    from vidneg.core.errors import VidnegError
    from vidneg.data.inputs import open_data
    rows = [{"caption": c.text} for c in captions]
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp)/"t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for name, data in (("list", rows), ("JSON lines", Path(tmp)/"t.jsonl")):
            try: open_data(data, texts_only=True)
            except VidnegError as e: yield Case(name, "all faults named at once", "problems" in str(e) or ":" in str(e))
            except Exception as e: yield Case(name, one_line(e), False)
            else: yield Case(name, "accepted", False)


def checks(n=1000, long=2):
    "Make `n` odd captions, and negatives of them by every generator; audit these, and pairs of the captions."
    from vidneg.data.pairs import Pair
    captions, cases, audits = odd_captions(n, long), [], []
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (generator, items) in generators(Path(tmp), captions).items():
            case, made = made_by(name, generator, items)
            cases.append(case)
            if name != "spot" and made: audits.append(audited(name, made, captions))
        pairs = [Pair(c.caption_id, c.clip_id, "k", c.text, d.text) for c, d in zip(captions, captions[1:])]
        audits.append(audited("the captions themselves", pairs, captions))
        reads = [*opened(captions)]
    what = f"{len(captions):,} odd captions"
    yield Check(what, "every generator", cases)
    yield Check(what, "audit", audits)
    yield Check(what, "`open_data`", reads)
