"""The table of the comparison: means and deviations over seeds, whatever the ranking."""

from compare_objectives import summary, table


def test_means_and_deviations_of_the_seeds():
    clip = summary([{"auc": 0.5, "rank": 30.0, "pool": 256}, {"auc": 0.8, "rank": 34.0, "pool": 256}])
    assert clip["rank"]["mean"] == 32 and round(clip["rank"]["sd"], 4) == 2.8284  # n - 1
    siglip = summary([{"auc": 0.25, "rank": 12.34, "pool": 256}])
    assert siglip["auc"] == {"mean": 0.25, "sd": 0.0}
    assert table({"clip": clip, "siglip": siglip}).splitlines() == [
        "| | clip | siglip |",
        "|---|---|---|",
        "| auc | 0.650 ± 0.212 | 0.250 |",
        "| rank | 32.0 ± 2.8 | 12.3 |",
        "| pool | 256 | 256 |",
    ]
