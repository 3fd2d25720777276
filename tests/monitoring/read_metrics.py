#!/usr/bin/env python3
"""Reads a metrics file with the Prometheus project's own parser: read_metrics.py FILE.

Prints JSON, {family: {"type": …, "help": …, "samples": [[name, labels, value], …]}}, after
asserting what Prometheus's conventions ask for.
"""

import json
import re
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

text = Path(sys.argv[1]).read_text()
assert text.endswith("\n"), "the last line is not ended"
heads = re.findall(r"^# (HELP|TYPE) (\S+)", text, re.M)
assert len(heads) == len(set(heads)), f"a head twice: {heads}"
families = {}
for family in text_string_to_metric_families(text):
    # The parser takes a counter's suffix off the family's name.
    name = family.name + "_total" if family.type == "counter" else family.name
    assert re.fullmatch(r"hpc_trainer_[a-z_]+", name), name
    assert family.documentation and family.type != "unknown", family
    assert name not in families, f"{name} twice"
    samples = [(s.name, s.labels, s.value) for s in family.samples]
    keys = [(sample, tuple(sorted(labels.items()))) for sample, labels, _ in samples]
    assert samples and len(keys) == len(set(keys)), f"{name}: no sample, or one twice"
    assert all(value >= 0 for _, _, value in samples), samples
    if family.type == "histogram":
        assert name.endswith("_seconds"), name
        buckets = [(float(labels["le"]), v) for n, labels, v in samples if n == name + "_bucket"]
        assert buckets == sorted(buckets) and buckets[-1][0] == float("inf"), buckets
        assert [v for n, _, v in samples if n == name + "_count"] == [buckets[-1][1]], samples
    families[name] = {"type": family.type, "help": family.documentation, "samples": samples}
assert set(families) == {name for _, name in heads}, "a head without samples"
print(json.dumps(families))
