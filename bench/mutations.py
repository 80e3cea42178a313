"""Breaks the evaluator one rule at a time, and shows that some test fails for each: `python -m bench.mutations`.

Works on a copy in a temporary directory. A mutation whose text is no longer there, or stands there twice, is an error,
so that the table keeps up with the code.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("config", "evaluator", "gateway", "tests", "pyproject.toml")
TESTS = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "tests/evaluator")

OPERATORS, VALUES, DATES, SEMVER = "operators.py", "values.py", "dates.py", "semver.py"
MATCH, GATES, FILTERS, COHORTS = "match.py", "gates.py", "filters.py", "cohorts.py"
HASHING, FRAME, EVALUATE, SNAPSHOT = "hashing.py", "frame.py", "evaluate.py", "snapshot.py"
MUTATIONS: list[tuple[str, str, str, str]] = [
    ("gt admits equals", OPERATORS, '{"gt": compare.gt,', '{"gt": compare.ge,'),
    ("gte refuses equals", OPERATORS, '"gte": compare.ge, "lt"', '"gte": compare.gt, "lt"'),
    ("lt admits equals", OPERATORS, '"lt": compare.lt, "lte"', '"lt": compare.le, "lte"'),
    ("lte refuses equals", OPERATORS, '"lte": compare.le}', '"lte": compare.lt}'),
    ("semver gt admits equals", OPERATORS, '        "gt": compare.gt,', '        "gt": compare.ge,'),
    ("semver gte refuses equals", OPERATORS, '        "gte": compare.ge,', '        "gte": compare.gt,'),
    ("semver lt admits equals", OPERATORS, '        "lt": compare.lt,', '        "lt": compare.le,'),
    ("semver lte refuses equals", OPERATORS, '        "lte": compare.le,', '        "lte": compare.lt,'),
    ("before is after", OPERATORS, '"is_date_before": compare.lt', '"is_date_before": compare.gt'),
    ("after is before", OPERATORS, '"is_date_after": compare.gt', '"is_date_after": compare.lt'),
    ("exact date is not", OPERATORS, '"is_date_exact": compare.eq', '"is_date_exact": compare.ne'),
    ("semver eq is ne", OPERATORS, '"eq": compare.eq', '"eq": compare.ne'),
    ("semver neq is eq", OPERATORS, '"neq": compare.ne', '"neq": compare.eq'),
    ("exact is its negative", OPERATORS, '    "exact": (_exact, _positive)', '    "exact": (_exact, _negative)'),
    ("is_not is its positive", OPERATORS, '    "is_not": (_exact, _negative)', '    "is_not": (_exact, _positive)'),
    ("icontains is its negative", OPERATORS, '    "icontains": (_text, _positive)', '    "icontains": (_text, _negative)'),
    ("not_icontains is its positive", OPERATORS, '    "not_icontains": (_text, _negative)', '    "not_icontains": (_text, _positive)'),
    ("starts_with is its negative", OPERATORS, '    "starts_with": (_text, _positive)', '    "starts_with": (_text, _negative)'),
    ("not_starts_with is its positive", OPERATORS, '    "not_starts_with": (_text, _negative)', '    "not_starts_with": (_text, _positive)'),
    ("ends_with is its negative", OPERATORS, '    "ends_with": (_text, _positive)', '    "ends_with": (_text, _negative)'),
    ("not_ends_with is its positive", OPERATORS, '    "not_ends_with": (_text, _negative)', '    "not_ends_with": (_text, _positive)'),
    ("icontains_multi is its negative", OPERATORS, '    "icontains_multi": (_contains_any, _positive)', '    "icontains_multi": (_contains_any, _negative)'),
    ("not_icontains_multi is its positive", OPERATORS, '    "not_icontains_multi": (_contains_any, _negative)', '    "not_icontains_multi": (_contains_any, _positive)'),
    ("regex is its negative", OPERATORS, '    "regex": (_regex, _positive)', '    "regex": (_regex, _negative)'),
    ("not_regex is its positive", OPERATORS, '    "not_regex": (_regex, _negative)', '    "not_regex": (_regex, _positive)'),
    ("between is its negative", OPERATORS, '    "between": (_between, _positive)', '    "between": (_between, _negative)'),
    ("not_between is its positive", OPERATORS, '    "not_between": (_between, _negative)', '    "not_between": (_between, _positive)'),
    ("is_set takes absence", OPERATORS, "return lambda value, _: value is not UNSET", "return lambda value, _: True"),
    ("is_not_set takes presence", OPERATORS, "return lambda value, _: value is UNSET", "return lambda value, _: True"),
    ("truthiness in version 2", OPERATORS, "if options.matching_version == 1 else", "if True else"),
    ("one true member is enough", VALUES, "return all(_truth(leaf) is True", "return any(_truth(leaf) is True"),
    ("a prerelease is no earlier", SEMVER, "0 if pre else 1", "1"),
    ("tilde allows the next minor", SEMVER, "high = (major, minor + 1, 0)", "high = (major, minor + 2, 0)"),
    ("caret allows the next major", SEMVER, "high = (major + 1, 0, 0)", "high = (major + 2, 0, 0)"),
    ("caret below one is loose", SEMVER, "high = (0, minor + 1, 0)", "high = (1, 0, 0)"),
    ("unmatched outranks a miss", MATCH, "if rank <= 1:\n                    kept, rank = condition.unmatched, 1", "if True:\n                    kept, rank = condition.unmatched, 1"),
    ("an earlier unmatched stays", MATCH, "if rank <= 1:\n                    kept", "if rank < 1:\n                    kept"),
    ("a miss does not clear the doubt", MATCH, "kept, rank, in_doubt = condition.missed, 2, False", "kept, rank, in_doubt = condition.missed, 2, in_doubt"),
    ("early exit is ignored", MATCH, "                if early_exit:\n                    break", "                if False:\n                    break"),
    ("doubt before early exit is ignored", MATCH, "elif verdict is IN_DOUBT or early_exit:", "elif verdict is IN_DOUBT:"),
    ("no group outranks unmatched", MATCH, "elif rank == 0:\n                    kept = condition.unusable", "else:\n                    kept = condition.unusable"),
    ("no device is nothing", MATCH, "if not condition.is_of_group:\n", "if False:\n"),
    ("unknown filters hold", MATCH, "            if found is None:\n                verdict = None", "            if found is None:\n                verdict = True"),
    ("a known false does not settle", MATCH, "            if found is False:\n                return False", "            if found is False:\n                verdict = None"),
    ("rollout excludes its bound", HASHING, "value / LONG_SCALE <= fraction", "value / LONG_SCALE < fraction"),
    ("variants include their bound", HASHING, "return _threshold(lambda value: value / LONG_SCALE < fraction)", "return _threshold(lambda value: value / LONG_SCALE <= fraction)"),
    ("variants are not salted", HASHING, 'identity and identity + b"variant"', "identity"),
    ("the split is not salted", MATCH, 'hashed.update(identity + b"variant")', "hashed.update(identity)"),
    ("an empty identity is hashed", HASHING, "        if not identity:\n            return ZERO_DIGEST", "        if identity is None:\n            return ZERO_DIGEST"),
    ("holdouts hash like rollouts", GATES, 'prehashed("holdout-")', 'prehashed("holdout.")'),
    ("holdouts hold out half as many", GATES, "threshold_at_most(percentage / 100)", "threshold_at_most(percentage / 200)"),
    ("enrollment that refuses goes on", GATES, "return self.enrolled if is_enrolled(seen) else self.refused", "return self.enrolled if is_enrolled(seen) else match(frame)"),
    ("enrollment is case-sensitive", GATES, 'seen.lower() == "true"', 'seen == "true"'),
    ("an unknown enrollment is none", GATES, "                frame.in_doubt = True\n                return None\n            if seen is UNSET", "                return match(frame)\n            if seen is UNSET"),
    ("stored wins over the request", FRAME, "{**stored, **asked}", "{**asked, **stored}"),
    ("never fetched is unset", FRAME, "return asked, NOT_FETCHED", "return asked, UNSET"),
    ("nothing stands in", FILTERS, "value = frame.properties.get(other, UNSET)", "value = UNSET"),
    ("the current stands in too early", FILTERS, "            if value is not UNSET:\n                break", "            if value is not UNSET and value is not NOT_FETCHED:\n                break"),
    ("a filtered dependency is true", FILTERS, "return expected is False", "return expected is True"),
    ("any variant is that variant", FILTERS, "result.variant == expected", "True"),
    ("distinct_id is not injected", FILTERS, 'get("distinct_id", frame.context.distinct_id)', 'get("distinct_id", UNSET)'),
    ("the group key is not injected", FILTERS, "UNSET if view.key is None else view.key", "UNSET"),
    ("cohort leaves are not negated", COHORTS, "negated(leaf) if document.negation else leaf", "leaf"),
    ("cohort references are not negated", COHORTS, "is_negated=bool(document.negation)", "is_negated=False"),
    ("not_in is in", COHORTS, '(operator == "not_in") is is_negated', "True"),
    ("every tree is a conjunction", COHORTS, 'any_of if tree["type"] == "OR" else all_of', "all_of"),
    ("static membership is reversed", COHORTS, "return cohort_id in members_of", "return cohort_id not in members_of"),
    ("an unknown cohort has nobody", COHORTS, "            frame.in_doubt = True\n            return None\n\n        return Node(f", "            return False\n\n        return Node(f"),
    ("the anonymous id wins", "identity.py", "overrides.get(flag_key) or frame.context.anon_distinct_id", "frame.context.anon_distinct_id or overrides.get(flag_key)"),
    ("the anonymous id is ignored", "identity.py", "overrides.get(flag_key) or frame.context.anon_distinct_id", "overrides.get(flag_key)"),
    ("missing does not spread", "dependencies.py", "if done in missing:", "if False:"),
    ("cycles raise no error", EVALUATE, "bool(self._undecided) or selection.is_cyclic", "bool(self._undecided)"),
    ("keys come without dependencies", SNAPSHOT, "flag.document.id in asked]", "flag.document.key in keys]"),
    ("clients get server flags", SNAPSHOT, "Runtime.CLIENT: (Runtime.ALL, Runtime.CLIENT)", "Runtime.CLIENT: (Runtime.ALL, Runtime.CLIENT, Runtime.SERVER)"),
    ("untagged flags are dropped", SNAPSHOT, "if not flag.contexts or not", "if not"),
    ("an override may name anything", "compile.py", "[document.variant] if document.variant in keys else", "[document.variant] if document.variant else"),
    ("ids are not cut", "types.py", "if len(self.distinct_id) > MAX_DISTINCT_ID_CHARACTERS:", "if False:"),
    ("rules stop at a miss", "rules.py", 'continues=document.on_rollout_miss == "continue"', "continues=False"),
    ("a paused experiment runs", "rules.py", "        if self.paused:\n            return self.paused\n", ""),
]  # fmt: skip
TESTS_FAILED = 1
"""What pytest exits with when tests ran and some failed; anything else is no verdict."""
EXPLAINED: dict[str, str] = {}
"""Mutations that no test can tell, and why."""


def passes(copy: Path) -> bool:
    """Whether the tests of the evaluator pass on the copy. Raises when they could not be run at all."""
    # Without byte code: a mutation of the same length within the same second would run what was compiled before.
    command = [sys.executable, "-B", *TESTS]
    ran = subprocess.run(command, cwd=copy, capture_output=True, check=False, timeout=300, text=True)
    if ran.returncode not in (0, TESTS_FAILED):
        raise RuntimeError(ran.stdout + ran.stderr)
    return ran.returncode == 0


def main() -> int:
    """Print what became of each mutation; 1 when one survives without an explanation."""
    write = sys.stdout.write
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignored = shutil.ignore_patterns("node_modules", "__pycache__")
            shutil.copytree(source, copy / name, ignore=ignored) if source.is_dir() else shutil.copy(source, copy)
        if not passes(copy):
            write("the tests fail without any mutation\n")
            return 1
        for number, (name, file, old, new) in enumerate(MUTATIONS, 1):
            path = copy / "evaluator" / file
            text = path.read_text()
            if text.count(old) != 1:
                write(f"{name}: its text occurs {text.count(old)} times in {file}\n")
                return 1
            path.write_text(text.replace(old, new))
            survived = passes(copy)
            path.write_text(text)
            if survived:
                survivors.append(name)
            write(f"{number:3}/{len(MUTATIONS)} {'SURVIVED' if survived else 'killed'}: {name}\n")
            sys.stdout.flush()
    unexplained = [name for name in survivors if name not in EXPLAINED]
    write(f"{len(MUTATIONS)} mutations, {len(survivors)} survivors, {len(unexplained)} of them unexplained\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
