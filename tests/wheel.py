"Checks a wheel; `.ci/wheel` runs this in an environment with only the wheel and its dependencies."
import importlib
import pkgutil
import sys
import time

start = time.perf_counter()
import vidneg

imported = time.perf_counter() - start
caption = vidneg.Caption("c1", "clip1", "A man wearing a white shirt runs behind a red car.")
published = vidneg.rules_published(vidneg.Lexicon.navero()) # as published: it asks no parser
negatives, counts = vidneg.make_negatives([caption], published, per_caption=4)
first = time.perf_counter() - start
assert {n.kind for n in negatives} == {"action", "attribute", "relation", "object"}
assert not {"torch", "spacy"} & {*sys.modules}
parsed = vidneg.load_parser().parse([caption.text])
with_parser = time.perf_counter() - start
assert [t.lemma for t in parsed[0].tokens if t.pos == "VERB"] == ["wear", "run"]
assert "site-packages" in vidneg.__file__
print(f"import {imported:.2f} s, first negative after {first:.2f} s, parser and first parse after {with_parser:.2f} s")

EXTRAS = {"dvc", "papermill", "nbformat", "ruamel", "nbclient", "nbconvert", "seaborn"}
for found in pkgutil.walk_packages(vidneg.__path__, "vidneg."):
    try: importlib.import_module(found.name)
    except ModuleNotFoundError as error: # an extra that is not installed; anything else is missing from the wheel
        assert error.name and error.name.split(".")[0] in EXTRAS, f"{found.name}: {error}"
        print(f"{found.name} waits for {error.name}")
    except vidneg.VidnegError as error: # a missing extra is named with the way to install it
        assert "pip install 'vidneg[" in str(error), error
