"""The table of the comparison (means and deviations over seeds), and which bridges it trains."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from study import objectives
from study.objectives import summary, table


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


def test_bridges_are_one_for_each_encoder_and_one_on_its_untrained_twin(tmp_path, monkeypatch):
    trained, scored, listed = {}, [], []
    monkeypatch.setattr(
        objectives, "train_bridge", lambda world, out, seed, *flags: trained.update({(out, seed): flags})
    )
    monkeypatch.setattr(
        objectives, "score_bridge", lambda world, out, scores, split, limit: scored.append((scores, limit))
    )

    def paper_table(log, script, *arguments):
        listed.extend(arguments)
        (tmp_path / "paper_table.md").write_text("the table")

    monkeypatch.setattr(objectives, "run_logged", paper_table)
    args = SimpleNamespace(
        world=tmp_path, out=tmp_path, objectives=["clip", "siglip"], seeds=[3], llm="L", bridge="--lr 1", limit_images=9
    )
    with ThreadPoolExecutor(1) as lanes:
        assert objectives.paper_table(args, lanes) == "the table"
    folder = tmp_path / "bridge"
    encoders = {"random": f"random:{tmp_path}/clip-3/encoder", "clip": f"{tmp_path}/clip-3/encoder"}
    encoders["siglip"] = f"{tmp_path}/siglip-3/encoder"
    assert trained == {
        (folder / f"{name}-3", 3): ("--llm", "L", "--encoder", encoder, "--lr", "1")
        for name, encoder in encoders.items()
    }
    assert scored == [(folder / f"{name}-3" / "eval", 9) for name in encoders]
    assert listed == [*(str(folder / f"{name}-3") for name in encoders), "--out", str(tmp_path)]
