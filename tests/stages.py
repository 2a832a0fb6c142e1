"Runs stages of the pipeline in the test's own process."
import ast

import nbformat

from vidneg.core.files import project_root


def run(stage, root, monkeypatch, **parameters):
    "Run the cells of a stage with other parameters; return its variables."
    monkeypatch.chdir(root)
    monkeypatch.setenv("VIDNEG_STAGE", stage) # `begin` keeps the parameters that are set below
    monkeypatch.setenv("VIDNEG_WORKERS", "1")
    monkeypatch.delenv("VIDNEG_SCALE", raising=False)
    shown = []
    names = {"display": shown.append}
    cells = nbformat.read(project_root(__file__.rsplit("/", 1)[0])/f"nbs/stages/{stage}.ipynb", 4).cells
    for cell in (c for c in cells if c.cell_type == "code"):
        exec(compile(ast.parse(cell.source), stage, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            assert parameters.keys() <= names.keys()
            names.update(parameters)
    return names
