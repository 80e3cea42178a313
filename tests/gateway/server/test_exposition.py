"""Metrics of several processes in one text."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.server.exposition import merged
from gateway.server.tally import Tally


def test_merged__two_workers__have_one_head_and_all_samples() -> None:
    """Each family stands together, described once, and each sample says whose it is."""
    one = b'# HELP a_total Some.\n# TYPE a_total counter\na_total{kind="x y"} 1.0\n# HELP b B.\n# TYPE b gauge\nb 2.0\n'
    two = b'# HELP a_total Some.\n# TYPE a_total counter\na_total{kind="x y"} 5.0\n'
    assert merged({"0": one, "1": two}).decode() == (
        "# HELP a_total Some.\n# TYPE a_total counter\n"
        'a_total{worker="0",kind="x y"} 1.0\na_total{worker="1",kind="x y"} 5.0\n'
        '# HELP b B.\n# TYPE b gauge\nb{worker="0"} 2.0\n'
    )


def test_merged__without_a_worker__has_no_label() -> None:
    """What the supervisor says is of no worker."""
    assert merged({"": b"# HELP a A.\n# TYPE a gauge\na 1.0\n"}) == b"# HELP a A.\n# TYPE a gauge\na 1.0\n"


def test_merged__everything_there_is__can_be_read_by_prometheus() -> None:
    """The text of two workers and their supervisor is valid, and has every family and every series once."""
    text = merged(
        {"": Tally().render_with(["ready", "ready"]), "0": Metrics().render(), "1": Metrics().render()}
    ).decode()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for it in families for sample in it.samples]
    assert len(series) == len(set(series))
    (workers,) = (it for it in families if it.name == "flagstone_workers")
    assert {sample.labels["state"]: sample.value for sample in workers.samples}["ready"] == 2
