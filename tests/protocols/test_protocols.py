"""Each protocol against a literal computation on a small network."""

import inspect

import numpy as np
import pytest
import torch
from conftest import make_stimuli
from scipy.integrate import trapezoid
from scipy.stats import spearmanr
from torch import nn

import unitprobe as up
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.metrics import class_correlation, class_selectivity
from unitprobe.protocols import (
    bau_protocol,
    morcos_protocol,
    ranadive_protocol,
    summarize_protocol,
    zhou_protocol,
)
from unitprobe.protocols.bau import stratified_halves
from unitprobe.protocols.ranadive import matched_sets, most_selective
from unitprobe.protocols.unit_measures import RunningCorrelation


class TwoLayers(nn.Module):
    """Two rectified layers of 6 and 5 units that can be masked from outside."""

    input_size = (3, 8, 8)

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second = nn.Linear(192, 6), nn.Linear(6, 5)
            self.head = nn.Linear(5, 4)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.relu1(self.first(x.flatten(1)))
        return self.head(self.relu2(self.second(x)))

    def masked(self, x, first=(), second=(), value=0.0, second_value=0.0):
        """The same with some units at a value, written out."""
        hidden = torch.relu(self.first(x.flatten(1)))
        for unit in first:
            hidden[:, unit] = value if np.isscalar(value) else value[unit]
        hidden = torch.relu(self.second(hidden))
        for unit in second:
            hidden[:, unit] = second_value if np.isscalar(second_value) else second_value[unit]
        return self.head(hidden)


def trained(stimuli, seed=0):
    """A network that tells some of the stimuli, so that its units matter."""
    model = TwoLayers(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(25):
        loss = nn.functional.cross_entropy(
            model(images_of(stimuli)), torch.from_numpy(stimuli.labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def many():
    return make_stimuli(120)


@pytest.fixture(scope="module")
def model(many):
    return trained(many)


@pytest.fixture(scope="module")
def zhou(model, many):
    return zhou_protocol(model, many, n_directions=3, resamples=50, progress=False)


def images_of(stimuli):
    return torch.stack([stimuli[i][0] for i in range(len(stimuli))])


def answers(model, stimuli, **masked):
    with torch.no_grad():
        return model.masked(images_of(stimuli), **masked).argmax(1).numpy()


def accuracy(model, stimuli, **masked):
    return (answers(model, stimuli, **masked) == stimuli.labels).mean()


def balanced(model, stimuli, **masked):
    said = answers(model, stimuli, **masked)
    return np.array(
        [
            ((said == c)[stimuli.labels == c].mean() + (said != c)[stimuli.labels != c].mean()) / 2
            for c in range(4)
        ]
    )


def responses(model, stimuli):
    with torch.no_grad():
        first = torch.relu(model.first(images_of(stimuli).flatten(1)))
        return first.numpy(), torch.relu(model.second(first)).numpy()


class TestZhou:
    def test_predictors_equal_the_metrics_of_recorded_responses(self, zhou, model, many):
        with torch.no_grad():
            probabilities = model(images_of(many)).double().softmax(1).numpy()
        for layer, values in zip(("relu1", "relu2"), responses(model, many), strict=True):
            node = zhou[layer]
            expected = class_selectivity(values, many.labels)
            np.testing.assert_allclose(node["class_selectivity"], expected, rtol=1e-5)
            expected = class_correlation(values, probabilities=probabilities)
            np.testing.assert_allclose(node["class_correlation"], expected, rtol=1e-4)
            np.testing.assert_allclose(node["activity"], values.mean(0), rtol=1e-5)
        weights = model.first.weight.detach().abs().sum(1)
        np.testing.assert_allclose(zhou["relu1"]["incoming_l1"], weights, rtol=1e-6)

    def test_correlations_are_spearmans_by_layer_and_their_weighted_mean(self, zhou):
        pooled = 0.0
        for layer, units in (("relu1", 6), ("relu2", 5)):
            node = zhou[layer]
            expected = spearmanr(node["class_correlation"], node["accuracy_drop"]).statistic
            one = zhou["correlation"].sel(
                layer=layer, damage="accuracy_drop", predictor="class_correlation"
            )
            assert float(one) == pytest.approx(expected)
            pooled += units / 11 * expected
        found = zhou["pooled_correlation"].sel(
            damage="accuracy_drop", predictor="class_correlation"
        )
        assert float(found) == pytest.approx(pooled)

    def test_q_values_are_corrected_over_the_family(self, zhou):
        p = zhou["correlation_p"].values
        expected = up.inference.false_discovery_rate(p)
        np.testing.assert_array_equal(zhou["correlation_q"].values, expected)

    def test_directions_are_ablated_as_a_projection_taken_away(self, model, many):
        rows = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0][:2]
        swept = up.ablate(model, many, layers="relu1", directions=rows)
        with torch.no_grad():
            hidden = torch.relu(model.first(images_of(many).flatten(1))).double()
            for index, row in enumerate(torch.from_numpy(rows)):
                left = (hidden - (hidden @ row)[:, None] * row).float()
                said = model.head(torch.relu(model.second(left))).argmax(1).numpy()
                drop = accuracy(model, many) - (said == many.labels).mean()
                found = float(swept["relu1"]["accuracy_drop"][index])
                assert found == pytest.approx(drop)

    def test_units_are_held_against_directions(self, zhou):
        node = zhou["relu2"]
        gap = node["accuracy_drop"].mean() - node["direction_accuracy_drop"].mean()
        found = zhou["unit_minus_direction"].sel(layer="relu2", damage="accuracy_drop")
        assert float(found) == pytest.approx(float(gap))
        assert node.sizes["direction"] == 3
        assert np.isnan(zhou["direction_correlation"].sel(predictor="incoming_l1")).all()

    def test_without_directions_nothing_is_said_of_them(self, model, many):
        tree = zhou_protocol(model, many, n_directions=0, resamples=5, mode="weights")
        assert not [name for name in tree.variables if "direction" in str(name)]

    def test_the_tree_is_saved_and_opened(self, zhou, tmp_path):
        up.save_tree(zhou, tmp_path / "z.h5")
        with up.open_store(tmp_path / "z.h5") as tree:
            assert tree.attrs["protocol"] == "zhou"
            assert tree.attrs["unitprobe_content"] == "ablation"
            np.testing.assert_array_equal(tree["correlation"], zhou["correlation"])

    def test_bad_input_is_refused(self, model, many):
        with pytest.raises(OptionError, match="n_directions=-1"):
            zhou_protocol(model, many, n_directions=-1)
        with pytest.raises(OptionError, match="mode='weights' cannot silence directions"):
            zhou_protocol(model, many, mode="weights")
        with pytest.raises(ResponseError, match=r"layer 'first'.*negative"):
            zhou_protocol(model, many, layers="first")


@pytest.fixture(scope="module")
def morcos(model, many):
    return morcos_protocol(
        model, many, n_orders=6, n_points=3, noise_scales=(0.0, 1.0), resamples=20
    )


class TestMorcos:
    def test_curves_equal_a_literal_computation(self, morcos, model, many):
        means = responses(model, many)[0].mean(0).tolist()
        node = morcos["relu1"]
        selectivity = node["class_selectivity"].values
        order = np.argsort(-np.nan_to_num(selectivity, nan=-1), kind="stable")
        assert node["removed"].values.tolist() == [0, 2, 4, 6]
        for clamp, value in (("zero", 0.0), ("mean", means)):
            expected = [accuracy(model, many, first=order[:k], value=value) for k in (0, 2, 4, 6)]
            chosen = morcos["clamp"].values.tolist().index(clamp)
            found = node["selective_first_accuracy"].values[chosen]
            np.testing.assert_allclose(found, expected)
            expected = [
                accuracy(model, many, first=order[::-1][:k], value=value) for k in (0, 2, 4, 6)
            ]
            found = node["selective_last_accuracy"].values[chosen]
            np.testing.assert_allclose(found, expected)

    def test_all_random_orders_begin_and_end_alike(self, morcos):
        curves = morcos["relu2"]["random_accuracy"].values
        assert curves.shape == (2, 6, 4)
        assert np.ptp(curves[:, :, [0, -1]], axis=1).max() == 0

    def test_areas_and_their_percentiles_among_random_orders(self, morcos):
        node = morcos["relu1"]
        random = trapezoid(node["random_accuracy"], node["fraction"], axis=-1)
        np.testing.assert_allclose(node["random_auc"], random)
        observed = trapezoid(node["selective_first_accuracy"], node["fraction"], axis=-1)
        np.testing.assert_allclose(morcos["selective_first_auc"].sel(layer="relu1"), observed)
        for clamp in range(2):
            low = (random[clamp] <= observed[clamp] + 1e-12).sum()
            high = (random[clamp] >= observed[clamp] - 1e-12).sum()
            p = min(1, 2 * (1 + min(low, high)) / 7)
            found = morcos["selective_first_auc_p"].sel(layer="relu1")[clamp]
            assert float(found) == pytest.approx(p)

    def test_noise_of_no_scale_changes_nothing(self, morcos):
        assert float(morcos["relu1"]["noise_accuracy"][0]) == pytest.approx(
            float(morcos["accuracy"])
        )

    def test_across_layers_the_units_of_all_are_ablated_together(self, model, many, tmp_path):
        tree = morcos_protocol(
            model,
            many,
            across_layers=True,
            n_orders=6,
            n_points=3,
            noise_scales=(),
            resamples=20,
            batch_size=50,
            keep=tmp_path,
        )
        means = [layer.mean(0).tolist() for layer in responses(model, many)]
        selectivity = np.concatenate(
            [tree[layer]["class_selectivity"].values for layer in ("relu1", "relu2")]
        )
        order = np.argsort(-np.nan_to_num(selectivity, nan=-1), kind="stable")
        points = [0, 4, 7, 11]
        assert tree["network_removed"].values.tolist() == points
        for clamp, values in (("zero", (0.0, 0.0)), ("mean", means)):
            one = tree.to_dataset().isel(clamp=tree["clamp"].values.tolist().index(clamp))
            for name, units in (("first", order), ("last", order[::-1])):
                expected = [
                    accuracy(
                        model,
                        many,
                        first=[unit for unit in units[:count] if unit < 6],
                        second=[unit - 6 for unit in units[:count] if unit >= 6],
                        value=values[0],
                        second_value=values[1],
                    )
                    for count in points
                ]
                found = one[f"network_selective_{name}_accuracy"]
                np.testing.assert_allclose(found, expected)
                area = trapezoid(expected, np.array(points) / 11)
                assert float(one[f"network_selective_{name}_auc"]) == pytest.approx(area)
        assert tree["network_random_accuracy"].dims == ("clamp", "order", "network_point")
        assert tree["network_random_accuracy"].shape == (2, 6, 4)
        assert len(np.unique(tree["network_random_accuracy"][0, :, 1])) > 1
        table = summarize_protocol(tree)
        assert table["layer"].tolist() == [*["relu1"] * 2, *["relu2"] * 2, *["all together"] * 2]

    def test_single_units_found_before_spare_their_ablation(self, morcos, zhou, model, many):
        again = morcos_protocol(
            model, many, n_orders=6, n_points=3, noise_scales=(), resamples=20, singles=zhou
        )
        np.testing.assert_array_equal(again["correlation"], morcos["correlation"])
        with pytest.raises(OptionError, match="weights_fingerprint"):
            morcos_protocol(TwoLayers(seed=1).eval(), many, singles=zhou)

    def test_bad_input_is_refused(self, model, many):
        with pytest.raises(OptionError, match="n_orders=0"):
            morcos_protocol(model, many, n_orders=0)
        with pytest.raises(OptionError, match="mode='sero'"):
            morcos_protocol(model, many, clamps=["sero"])
        with pytest.raises(OptionError, match="the scale must be a finite number"):
            morcos_protocol(model, many, noise_scales=[-1])


class TestBau:
    def test_it_equals_a_literal_computation(self, model, many):
        tree = bau_protocol(model, many, layers="relu1", sizes=(1, 2, 20), n_random=3)
        ranking, measuring = (many.select(half) for half in stratified_halves(many.labels, 0))
        assert tree["size"].values.tolist() == [1, 2]
        drops = np.array(
            [balanced(model, ranking) - balanced(model, ranking, first=[u]) for u in range(6)]
        )
        for c in range(4):
            order = np.argsort(-drops[:, c].round(12), kind="stable")
            node = tree["relu1"].isel(target_class=c)
            for index, size in enumerate((1, 2)):
                top = node["ranked_units"].values[:size]
                # Units of equal drop may stand in either order.
                np.testing.assert_allclose(drops[top, c], drops[order[:size], c])
                removed = balanced(model, measuring, first=top)
                kept = balanced(model, measuring, first=np.setdiff1d(np.arange(6), top))
                one = node.isel(size=index)
                assert float(one["removed"]) == pytest.approx(removed[c])
                assert float(one["removed_others"]) == pytest.approx(np.delete(removed, c).mean())
                assert float(one["kept"]) == pytest.approx(kept[c])
                assert float(one["kept_others"]) == pytest.approx(np.delete(kept, c).mean())
        assert tree["relu1"]["random_removed"].shape == (3, 4, 2)
        mean = tree["relu1"]["removed"].mean("target_class")
        np.testing.assert_allclose(tree["removed_mean"].sel(layer="relu1"), mean)

    def test_a_layer_too_small_for_a_size_has_no_value_there(self, model, many):
        tree = bau_protocol(model, many, sizes=(1, 5), n_random=2, classes=["class 2"])
        assert np.isnan(tree["relu2"]["removed"].values[0, 1])
        assert np.isfinite(tree["relu1"]["removed"].values).all()
        assert tree["target_class"].values.tolist() == ["class 2"]
        assert np.isnan(tree["removed_p"].sel(layer="relu2", size=5))

    def test_bad_input_is_refused(self, model, many, stimuli):
        with pytest.raises(LabelError, match="no class 'class 9'; the nearest"):
            bau_protocol(model, many, classes=["class 9"])
        with pytest.raises(OptionError, match="below the 6 units of the largest layer"):
            bau_protocol(model, many, sizes=[6])
        with pytest.raises(LabelError, match="class 2 has only one stimulus"):
            bau_protocol(model, stimuli.select([0, 1, 2, 3, 4, 5]), sizes=[1])


class TestRanadive:
    def test_it_equals_a_literal_computation(self, many):
        models = {epoch: trained(many, seed=epoch) for epoch in (0, 7)}
        tree = ranadive_protocol(models, many, share=0.34, n_random=4)
        assert tree["checkpoint"].values.tolist() == [0, 7]
        for index, model in enumerate(models.values()):
            node = tree["relu1"].isel(checkpoint=index)
            assert float(tree["accuracy"][index]) == pytest.approx(accuracy(model, many))
            selectivity = class_selectivity(responses(model, many)[0], many.labels)
            np.testing.assert_allclose(node["class_selectivity"], selectivity, rtol=1e-5)
            top = np.argsort(-np.nan_to_num(selectivity, nan=-1))[:2]
            assert np.flatnonzero(node["selective"]).tolist() == sorted(top)
            drop = accuracy(model, many) - accuracy(model, many, first=top)
            assert float(node["selective_accuracy_drop"]) == pytest.approx(drop)
            gap = drop - float(node["random_accuracy_drop"].mean())
            found = tree["difference"].sel(layer="relu1").isel(checkpoint=index)
            assert float(found) == pytest.approx(gap)

    def test_files_of_weights_go_into_a_copy_of_the_network(self, model, many, tmp_path):
        from safetensors.torch import save_file

        other = TwoLayers(seed=3)
        save_file(other.state_dict(), tmp_path / "w.safetensors")
        before = model.first.weight.clone()
        pairs = [("start", model), ("end", tmp_path / "w.safetensors")]
        tree = ranadive_protocol(pairs, many, model=model, share=0.2, n_random=2)
        assert tree["checkpoint"].values.tolist() == ["start", "end"]
        assert float(tree["accuracy"][1]) == pytest.approx(accuracy(other, many))
        assert torch.equal(model.first.weight, before)

    def test_matched_units_are_as_many_of_each_level_of_activity(self, model, many):
        activity = np.arange(40.0)
        chosen = np.array([0, 1, 39])
        sets = matched_sets(chosen, activity, 50, np.random.default_rng(0))
        assert ((sets < 8).sum(axis=1) == 2).all()
        assert ((sets >= 32).sum(axis=1) == 1).all()
        tree = ranadive_protocol({0: model}, many, share=0.2, n_random=2, matched=True)
        assert tree.attrs["matched"] == 1

    @pytest.mark.parametrize("follows_activity", [False, True])
    def test_matched_sets_are_as_often_significant_as_p_says(self, follows_activity):
        random = np.random.default_rng(1)
        significant = 0
        for _ in range(300):
            activity = random.uniform(size=64)
            # Damage and selectivity both depend on activity at most: nothing is to be found.
            damage = random.normal(size=64) + 2 * follows_activity * (activity > 0.5)
            selectivity = random.normal(size=64) - 2 * follows_activity * (activity > 0.5)
            chosen = most_selective(selectivity, 6)
            drawn = damage[matched_sets(chosen, activity, 99, random)].sum(axis=1)
            observed = damage[chosen].sum()
            below, above = (drawn <= observed).sum(), (drawn >= observed).sum()
            significant += 2 * (1 + min(below, above)) / 100 <= 0.05
        assert significant / 300 < 0.08

    def test_the_default_can_reach_a_p_of_one_percent(self):
        sets = inspect.signature(ranadive_protocol).parameters["n_random"].default
        assert 2 / (1 + sets) < 0.01

    def test_bad_input_is_refused(self, model, many, tmp_path):
        with pytest.raises(OptionError, match=r"share=1\.5"):
            ranadive_protocol({0: model}, many, share=1.5)
        with pytest.raises(OptionError, match="checkpoints is empty"):
            ranadive_protocol({}, many)
        with pytest.raises(OptionError, match="two checkpoints are labelled 3"):
            ranadive_protocol([(3, model), (3, model)], many)
        with pytest.raises(OptionError, match="give its network with model="):
            ranadive_protocol({0: tmp_path / "w.safetensors"}, many)
        with pytest.raises(OptionError, match="no other units of like activity"):
            ranadive_protocol({0: model}, many, share=0.95, matched=True)


def test_a_running_correlation_equals_numpys():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(50, 3)) + 1000, random.normal(size=(50, 2))
    running = RunningCorrelation()
    for rows in np.array_split(np.arange(50), 4):
        running.add(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    expected = np.corrcoef(x.T, y.T)[:3, 3:]
    np.testing.assert_allclose(running.compute(), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [zhou_protocol, morcos_protocol, bau_protocol])
def test_a_protocol_gives_the_same_twice(protocol, model, many):
    fewer = {} if protocol is bau_protocol else {"resamples": 5}
    if protocol is morcos_protocol:
        fewer |= {"n_orders": 3}
    assert protocol(model, many, **fewer).identical(protocol(model, many, **fewer))
