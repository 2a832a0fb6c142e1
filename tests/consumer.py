"Load an exported folder as somebody without vidneg does: with datasets and mlcroissant. Prints a summary as JSON."
import importlib.util
import json
import sys

if importlib.util.find_spec("vidneg"): sys.exit("vidneg is installed here: use an environment without it")

import datasets
import mlcroissant

folder = sys.argv[1]
names = datasets.get_dataset_config_names(folder)
loaded = {name: datasets.load_dataset(folder, name) for name in names}
found = {name: {split: [rows.num_rows, rows.column_names, rows[0]] for split, rows in d.items()}
         for name, d in loaded.items()}
described = mlcroissant.Dataset(jsonld=f"{folder}/croissant.json")
issues = described.metadata.ctx.issues
records = {r.uuid: sum(1 for _ in described.records(r.uuid)) for r in described.metadata.record_sets}
default = datasets.get_dataset_default_config_name(folder)
print(json.dumps({"configs": found, "default": default, "records": records, "errors": sorted(issues.errors),
                  "warnings": sorted(issues.warnings)}, default=str))
