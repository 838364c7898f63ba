"""The bootstrap interval of a gain, and of the mean of several benchmarks' gains."""

import numpy as np
import pytest

from bridge.scoring.bootstrap import mean_gain, paired_gain
from vlm.errors import UserError


def test_gain_interval_is_seeded_paired_and_right():
    rng = np.random.default_rng(0)
    before = {str(number): float(rng.random() < 0.5) for number in range(2000)}
    after = {key: max(value, float(rng.random() < 0.2)) for key, value in before.items()}
    result = paired_gain(after, before, samples=2000)
    differences = np.array([after[key] - before[key] for key in before])
    assert result["gain"] == differences.mean()
    # against the textbook interval of a mean, and against resampling question by question
    spread = 1.96 * differences.std() / np.sqrt(len(differences))
    slow = [rng.choice(differences, len(differences)).mean() for _ in range(2000)]
    expected = (result["gain"] - spread, result["gain"] + spread)
    assert (result["low"], result["high"]) == pytest.approx(expected, abs=0.002)
    assert (result["low"], result["high"]) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.002)
    assert paired_gain(after, before, samples=2000) == result
    assert paired_gain(after, before, samples=2000, seed=1) != result


def test_gain_over_images_resamples_whole_images():
    after = {f"{image}.{number}": float(image % 2) for image in range(50) for number in range(20)}
    before = dict.fromkeys(after, 0.0)
    groups = {key: key.split(".")[0] for key in after}
    single, grouped = paired_gain(after, before), paired_gain(after, before, groups)
    assert single["gain"] == grouped["gain"] == 0.5
    width = 2 * 1.96 * 0.5 / np.sqrt(50)
    assert grouped["high"] - grouped["low"] == pytest.approx(width, rel=0.1)
    assert single["high"] - single["low"] == pytest.approx(width / np.sqrt(20), rel=0.1)
    with pytest.raises(UserError, match=r"not over the same questions: 1 differ \(0\.0\)"):
        paired_gain({key: 0.0 for key in after if key != "0.0"}, before)


def made_benchmark(rng, images, questions):
    """Scores of two models on so many questions about each image; an image is hard or easy for all its questions."""
    hard = {image: rng.normal() for image in images}
    after = {f"{image}.{number}": hard[image] + rng.normal() for image in images for number in range(questions)}
    return after, dict.fromkeys(after, 0.0), {key: key.split(".")[0] for key in after}


def test_the_mean_of_two_benchmarks_resamples_an_image_for_both():
    rng = np.random.default_rng(0)
    one = made_benchmark(rng, [f"a{number}" for number in range(40)], 3)
    other = made_benchmark(rng, [f"b{number}" for number in range(25)], 5)
    # of the same images as `one`, and as good on each of them as it: the means move together
    again = ({f"{key}!": value for key, value in one[0].items()}, {f"{key}!": 0.0 for key in one[1]})
    same = (*again, {f"{key}!": image for key, image in one[2].items()})

    apart, joint = mean_gain([one, other], samples=4000), mean_gain([one, same], samples=4000)
    alone = paired_gain(*one, samples=4000)
    assert (joint["gain"], joint["low"], joint["high"]) == pytest.approx(
        (alone["gain"], alone["low"], alone["high"]), abs=1e-12
    )
    assert apart["gain"] == (np.mean(list(one[0].values())) + np.mean(list(other[0].values()))) / 2
    assert apart["questions"] == 40 * 3 + 25 * 5

    def mean_of_drawn(after, images):
        drawn = rng.choice(sorted(set(images.values())), len(set(images.values())))
        return np.mean([after[f"{image}.{number}"] for image in drawn for number in range(len(after) // len(drawn))])

    slow = [(mean_of_drawn(one[0], one[2]) + mean_of_drawn(other[0], other[2])) / 2 for _ in range(4000)]
    assert (apart["low"], apart["high"]) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.02)


def test_every_sample_of_a_small_benchmark_has_its_only_image():
    one = ({"x": 1.0}, {"x": 0.0}, {"x": "only"})
    many = made_benchmark(np.random.default_rng(1), [f"a{number}" for number in range(30)], 2)
    small, large = paired_gain(*one), paired_gain(*many)
    both = mean_gain([one, many])
    assert (small["low"], small["high"]) == (1.0, 1.0)
    assert (both["low"], both["high"]) == pytest.approx(((1 + large["low"]) / 2, (1 + large["high"]) / 2), abs=0.01)
    with pytest.raises(UserError, match="no questions to compare"):
        mean_gain([one, ({}, {}, {})])
