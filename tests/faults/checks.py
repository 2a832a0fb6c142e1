"The form in which every row of the table of faults gives its figures: what was tried, what came of it, what broke."
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

HEAD = ["fault", "where", "cases", "outcome", "broken"]


class Case(NamedTuple):
    "One try of a fault."
    name: str # name of the case, for those that break
    outcome: str # what happened, in words that hold on every machine
    good: bool # True: it is what must happen


class Check(NamedTuple):
    "All tries of a fault in one place."
    fault: str # the fault
    where: str # the code that meets it
    cases: list[Case]

    @property
    def broken(self): return [c for c in self.cases if not c.good]

    def row(self):
        "Return the cells of its row in the report."
        counts = Counter(c.outcome for c in self.cases if c.good)
        outcomes = counts if len(counts) > 1 else dict.fromkeys(counts, "all")
        return [self.fault, self.where, str(len(self.cases)),
                "; ".join(f"{o}: {n}" for o, n in sorted(outcomes.items())) or "–", str(len(self.broken) or "–")]


def table(checks: Iterable[Check]) -> str:
    "Write checks as a table in Markdown."
    rows = [HEAD, ["---"]*len(HEAD), *(c.row() for c in checks)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def one_line(error: BaseException) -> str:
    "Return what is wrong with an error as a message for users, \"\" if it is one clear line."
    from vidneg.core.errors import VidnegError
    text = str(error)
    if not isinstance(error, VidnegError): return f"{type(error).__name__}: {text[:150]}"
    return "" if text.strip() and "\n" not in text and "Traceback" not in text else f"unclear: {text[:150]!r}"
