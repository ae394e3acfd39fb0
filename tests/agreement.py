"""Every metric beside an independent reference: the rows of docs/agreement.md.

Run as ``python tests/agreement.py`` it writes the page; `test_agreement.py` checks that what the
page states still holds.
"""

import importlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics

from unitprobe import metrics as m
from unitprobe.metrics.information import bin_responses

PAGE = Path(__file__).parent.parent / "docs" / "agreement.md"
SEEDS = range(4)


@dataclass(frozen=True)
class Row:
    """A metric, who else computes it, and both, for (responses, labels) of a unit or a layer."""

    metric: str
    reference: str
    ours: object
    theirs: object
    data: tuple = ("rectified", "ties", "signed")
    needs: str = ""
    unit: bool = True


def rectified(rng):
    """Sparse, rectified, unbalanced: 240 stimuli of 6 classes, one unit with a single response."""
    labels = rng.permutation(np.repeat(np.arange(6), [10, 20, 30, 50, 60, 70]))
    tuning = rng.normal(size=(6, 10))
    responses = np.maximum(tuning[labels] + rng.normal(size=(240, 10)) - 0.5, 0)
    responses[:, 0] = 0
    responses[7, 0] = 2.5
    return responses, labels


def ties(rng):
    """Small whole numbers, so that most responses tie."""
    responses, labels = rectified(rng)
    responses = np.round(2 * responses)
    responses[0, responses.max(axis=0) == 0] = 1
    return responses, labels


def signed(rng):
    """Gaussian, of either sign."""
    _, labels = rectified(rng)
    return rng.normal(size=(6, 10))[labels] + rng.normal(size=(240, 10)), labels


DATA = {"rectified": rectified, "ties": ties, "signed": signed}


def best(value):
    """Largest over classes of a reference for one unit and class membership."""

    def unit(x, labels):
        return max(value(labels == c, x) for c in np.unique(labels))

    return unit


def literal_selectivity(x, labels):
    means = sorted(x[labels == c].mean() for c in np.unique(labels))
    top, rest = means[-1], np.mean(means[:-1])
    return (top - rest) / (top + rest)


def literal_ccmas(x, labels):
    top = max(np.unique(labels), key=lambda c: x[labels == c].mean())
    here, rest = x[labels == top].mean(), x[labels != top].mean()
    return (here - rest) / (here + rest)


def literal_localist(x, labels):
    def gap(v):
        return max(v[labels == c].min() - v[labels != c].max() for c in np.unique(labels))

    return max(gap(x), gap(-x))


def literal_top_class(x, labels):
    return max((x[labels == c] > x[labels != c].max()).sum() for c in np.unique(labels))


def literal_precision(x, labels, k=60):
    """The share of each class in the first k, ties at the last in every order alike."""
    last = np.sort(x)[-k]
    above, equal = x > last, x == last
    weight = (k - above.sum()) / equal.sum()
    return (
        max((labels[above] == c).sum() + weight * (labels[equal] == c).sum() for c in range(6)) / k
    )


def informedness(member, x):
    false, true, _ = sklearn.metrics.roc_curve(member, x, drop_intermediate=False)
    return (true - false).max()


def f1(member, x):
    precision, recall, _ = sklearn.metrics.precision_recall_curve(member, x)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))


def recall(member, x):
    precision, found, _ = sklearn.metrics.precision_recall_curve(member, x)
    return found[precision >= 0.95].max()


def d_prime(member, x):
    return (x[member].mean() - x[~member].mean()) / math.sqrt(
        (x[member].var() + x[~member].var()) / 2
    )


def eta_squared(x, labels):
    groups = [x[labels == c] for c in np.unique(labels)]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    return 1 - within / ((x - x.mean()) ** 2).sum()


def information(x, labels):
    bins = bin_responses(x[:, None])[:, 0]
    return sklearn.metrics.mutual_info_score(labels, bins) / math.log(2)


def gini(x):
    return np.abs(x[:, None] - x).mean() / (2 * x.mean())


def hoyer(x):
    n = len(x)
    return (math.sqrt(n) - np.abs(x).sum() / math.sqrt((x**2).sum())) / (math.sqrt(n) - 1)


def sparseness(x):
    return (1 - x.mean() ** 2 / (x**2).mean()) / (1 - 1 / len(x))


def singular(layer):
    return np.linalg.svd(layer - layer.mean(axis=0), compute_uv=False)


def participation(layer, _):
    return (singular(layer) ** 2).sum() ** 2 / (singular(layer) ** 4).sum()


def rank(layer, _):
    return math.exp(scipy.stats.entropy(singular(layer)))


def components(layer, _):
    from sklearn.decomposition import PCA

    return PCA(n_components=0.9, svd_solver="full").fit(layer).n_components_


def other(layer):
    """A second layer on the same stimuli: part of the first, bent."""
    return np.tanh(layer[:, :7]) + 0.1 * layer[:, 3:]


def cka(layer, _):
    def centred_gram(x):
        gram = x @ x.T
        return gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()

    a, b = centred_gram(layer), centred_gram(other(layer))
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def procrustes(layer, _):
    a, b = layer, np.pad(other(layer), ((0, 0), (0, 3)))
    _, _, disparity = scipy.spatial.procrustes(a, b)
    return math.sqrt(1 - disparity)


def rsa(layer, _):
    a, b = (scipy.spatial.distance.pdist(x, "euclidean") for x in (layer, other(layer)))
    return scipy.stats.spearmanr(a, b).statistic


def rsatoolbox_distances(layer):
    import rsatoolbox

    data = rsatoolbox.data.Dataset(layer)
    return rsatoolbox.rdm.calc_rdm(data, method="euclidean")


def rsa_of_toolbox(layer, _):
    import rsatoolbox

    a, b = rsatoolbox_distances(layer), rsatoolbox_distances(other(layer))
    return float(rsatoolbox.rdm.compare(a, b, method="spearman").squeeze())


def canonical(layer, _):
    a, b = layer - layer.mean(axis=0), other(layer)
    b = b - b.mean(axis=0)
    angles = scipy.linalg.subspace_angles(scipy.linalg.orth(a), scipy.linalg.orth(b))
    return np.cos(angles).mean()


def twonn(layer, _):
    import skdim

    return skdim.id.TwoNN().fit(layer).dimension_


def mle(layer, _):
    import skdim

    return skdim.id.MLE(K=20).fit(layer).dimension_


POSITIVE = ("rectified", "ties")
LAYER = ("rectified", "signed")
ROWS = [
    Row("class_selectivity", "loop", m.class_selectivity, literal_selectivity, POSITIVE),
    Row("ccmas", "loop", m.ccmas, literal_ccmas, POSITIVE),
    Row("localist_selectivity", "loop", m.localist_selectivity, literal_localist),
    Row("top_class_selectivity", "loop", m.top_class_selectivity, literal_top_class),
    Row("precision_at_k", "loop", m.precision_at_k, literal_precision),
    Row("roc_auc", "scikit-learn", m.roc_auc, best(sklearn.metrics.roc_auc_score)),
    Row(
        "average_precision",
        "scikit-learn",
        m.average_precision,
        best(sklearn.metrics.average_precision_score),
    ),
    Row("max_informedness", "scikit-learn", m.max_informedness, best(informedness)),
    Row("max_f1", "scikit-learn", m.max_f1, best(f1)),
    Row("recall_at_precision", "scikit-learn", m.recall_at_precision, best(recall)),
    Row(
        "class_correlation",
        "scipy",
        m.class_correlation,
        best(lambda member, x: scipy.stats.pearsonr(member, x).statistic),
    ),
    Row("d_prime", "loop", m.d_prime, best(d_prime)),
    Row(
        "mutual_information (not corrected)",
        "scikit-learn",
        lambda x, y: m.mutual_information(x, y, corrected=False),
        information,
    ),
    Row(
        "anova_f",
        "scipy",
        m.anova_f,
        lambda x, y: scipy.stats.f_oneway(*[x[y == c] for c in np.unique(y)]).statistic,
    ),
    Row("eta_squared", "loop", m.eta_squared, eta_squared),
    Row(
        "lifetime_sparseness",
        "loop",
        lambda x, _: m.lifetime_sparseness(x),
        lambda x, _: sparseness(x),
        POSITIVE,
    ),
    Row("hoyer_sparseness", "loop", lambda x, _: m.hoyer_sparseness(x), lambda x, _: hoyer(x)),
    Row("gini", "mean of differences", lambda x, _: m.gini(x), lambda x, _: gini(x), POSITIVE),
    Row(
        "half_max_share",
        "loop",
        lambda x, _: m.half_max_share(x),
        lambda x, _: (x >= x.max() / 2).mean(),
        POSITIVE,
    ),
    Row(
        "kurtosis",
        "scipy",
        lambda x, _: m.kurtosis(x),
        lambda x, _: scipy.stats.kurtosis(x),
    ),
    Row(
        "participation_ratio",
        "numpy, singular values",
        lambda x, _: m.participation_ratio(x),
        participation,
        LAYER,
        unit=False,
    ),
    Row(
        "effective_rank",
        "numpy and scipy",
        lambda x, _: m.effective_rank(x),
        rank,
        LAYER,
        unit=False,
    ),
    Row(
        "components_90",
        "scikit-learn, PCA",
        lambda x, _: m.components_90(x),
        components,
        LAYER,
        unit=False,
    ),
    Row(
        "twonn_dimension",
        "scikit-dimension",
        lambda x, _: m.twonn_dimension(x),
        twonn,
        ("signed",),
        "skdim",
        False,
    ),
    Row(
        "mle_dimension",
        "scikit-dimension",
        lambda x, _: m.mle_dimension(x),
        mle,
        ("signed",),
        "skdim",
        False,
    ),
    Row(
        "linear_cka",
        "centred Gram matrices",
        lambda x, _: m.linear_cka(x, other(x)),
        cka,
        LAYER,
        unit=False,
    ),
    Row(
        "procrustes_similarity",
        "scipy",
        lambda x, _: m.procrustes_similarity(x, other(x)),
        procrustes,
        LAYER,
        unit=False,
    ),
    Row(
        "svcca (all components)",
        "scipy, principal angles",
        lambda x, _: m.svcca(x, other(x), share=1.0),
        canonical,
        LAYER,
        unit=False,
    ),
    Row(
        "representational_similarity (Euclidean)",
        "scipy",
        lambda x, _: m.representational_similarity(x, other(x), distance="euclidean"),
        rsa,
        LAYER,
        unit=False,
    ),
    Row(
        "representational_similarity (Euclidean)",
        "rsatoolbox",
        lambda x, _: m.representational_similarity(x, other(x), distance="euclidean"),
        rsa_of_toolbox,
        ("signed",),
        "rsatoolbox",
        False,
    ),
]


def is_installed(row):
    """Tell whether the reference of a row can be imported."""
    return not row.needs or importlib.util.find_spec(row.needs) is not None


def compare(row):
    """Return the largest difference of a row, the range of the reference, and how many values."""
    differences, values = [], []
    for name in row.data:
        for seed in SEEDS:
            responses, labels = DATA[name](np.random.default_rng(seed))
            ours = np.atleast_1d(np.asarray(row.ours(responses, labels), dtype=float))
            if row.unit:
                theirs = np.array([row.theirs(unit, labels) for unit in responses.T], dtype=float)
            else:
                theirs = np.atleast_1d(np.asarray(row.theirs(responses, labels), dtype=float))
            assert ours.shape == theirs.shape
            differences.append(np.abs(ours - theirs))
            values.append(theirs)
    reference = np.concatenate(values)
    return np.concatenate(differences).max(), (reference.min(), reference.max()), len(reference)


def bound(difference):
    """Return a power of ten well above a difference, at least 1e-12: machines round differently."""
    return 10.0 ** max(-12, math.ceil(math.log10(max(difference, 1e-300))) + 1)


def as_line(row, stated, span, count):
    """Return a row of the table."""
    data = ", ".join(row.data)
    low, high = span
    return (
        f"| `{row.metric.split(' ')[0]}`{row.metric[len(row.metric.split(' ')[0]) :]} "
        f"| {row.reference} | {stated:.0e} | {low:.3g} to {high:.3g} | {count} | {data} |"
    )


HEAD = """# Agreement with independent references

Each metric beside a computation of somebody else's, or a loop written from the formula.
`tests/test_agreement.py` computes all of it again and fails if a difference exceeds what stands
here; `python tests/agreement.py` writes this page.

*Rectified* responses are sparse, of 240 stimuli in 6 unbalanced classes, with one unit that
responds to a single stimulus; *ties* are the same rounded to small whole numbers; *signed* ones are
Gaussian. Four seeds of each, 10 units; measures of layers give one value for each. The second layer
of a similarity is a bent part of the first.

| metric | reference | largest difference below | range tested | values | data |
|---|---|---|---|---|---|
"""


def write_page():
    """Write the tables to docs/agreement.md."""
    lines = []
    for row in ROWS:
        difference, span, count = compare(row)
        lines.append(as_line(row, bound(difference), span, count))
    PAGE.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_page()
