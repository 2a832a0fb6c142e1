"Print the test files that a change concerns: those that changed, and those that import a changed module."
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def changed(base):
    "List the files that differ from a commit, including files that git does not know yet."
    def git(*words): return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = git("diff", "--name-only", "-z", base) + git("ls-files", "-oz", "--exclude-standard")
    return [Path(name) for name in names.split("\0") if name]


def main():
    paths = changed(sys.argv[1] if len(sys.argv) > 1 else "HEAD")
    modules = [".".join(p.with_suffix("").parts) for p in paths if p.parts[0] == "vidneg" and p.suffix == ".py"]
    imported = re.compile("|".join(rf"\b{re.escape(module)}\b" for module in modules) or r"(?!)")
    tests = [p.relative_to(ROOT) for p in sorted((ROOT/"tests").glob("test_*.py")) if p.name != "test_house.py"]
    print(*[p for p in tests if p in paths or imported.search((ROOT/p).read_text(encoding="utf-8"))])


if __name__ == "__main__": main()
