"""The published slips that two exercises are about: the chapters' helpers have them, and are told from right ones."""
import nbformat
import pytest
import torch
import torch.nn.functional as F

from nvs_book import cameras_exercises, scenes_exercises
from nvs_book.cameras import orbit, pose_from_axes
from nvs_book.checks import golden
from nvs_book.exercises import check


def defined_in(chapter: str, name: str):
    "A function as a chapter's cell defines it."
    cells = nbformat.read(f"nbs/foundations/{chapter}.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if f"def {name}(" in cell.source and "#| export" not in cell.source)
    scope = {"torch": torch, "F": F, "pose_from_axes": pose_from_axes, "orbit": orbit}
    exec(source, scope)
    return scope[name]


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.filterwarnings("ignore:Using torch.cross")
def test_the_cameras_helper_is_wrong_for_three_cameras_only():
    surround = defined_in("01_cameras", "surround")
    assert cameras_exercises._each_alone(cameras_exercises._around) and not cameras_exercises._each_alone(surround)
    for n in range(1, 12):
        true = orbit(n, 2.0)
        assert torch.allclose(surround(true[:, :3, 3]), true, atol=1e-5) == (n != 3)
    three = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(cameras_exercises._around(three, *[cameras_exercises._cross_first] * 2), surround(three), atol=1e-6)


def test_the_scenes_helper_gives_the_originals_numbers():
    g, aggregate = golden("sparseneus_volume"), defined_in("02_scenes", "aggregate")
    features, mask = g["multiview_features"].transpose(0, 1), g["multiview_mask"].bool().T
    mean, variance = aggregate(features, mask)
    assert torch.allclose(torch.cat([variance, mean], -1), g["aggregated_var_mean"], atol=1e-5)
    assert not scenes_exercises._unseen_does_not_matter(aggregate)
    for mended in (scenes_exercises._mean_and_variance, scenes_exercises._mean_and_variance_by_moments):
        mean, variance = mended(features, mask)
        assert torch.allclose(torch.cat([variance, mean], -1), g["aggregated_var_mean_masked_features"], atol=1e-4)


def test_a_test_may_say_no_by_an_assertion():
    def poses_stand_alone(make_poses):
        for n in range(1, 6):
            centers = torch.randn(n, 3)
            assert torch.allclose(make_poses(centers), torch.stack([make_poses(c) for c in centers]), atol=1e-4)
        return True

    def unseen_does_not_matter(aggregate):
        features, mask = torch.randn(3, 30, 2), torch.rand(3, 30) < 0.5
        hidden = features.masked_fill(~mask[..., None], 1000.0)
        torch.testing.assert_close(aggregate(features, mask), aggregate(hidden, mask))
        return True

    assert check("cameras.5", poses_stand_alone, seed=0), check("cameras.5", poses_stand_alone, seed=0).message
    assert check("scenes.5", unseen_does_not_matter, seed=0), check("scenes.5", unseen_does_not_matter, seed=0).message


@pytest.mark.parametrize("keep", [list, lambda views: [(f.numpy(), m) for f, m in views],
                                  lambda views: [(f * m[:, None], m) for f, m in views]])
def test_keeping_the_views_is_told_with_a_number(keep):
    def mean_and_variance(views):
        kept = keep(views)
        features, mask = (torch.stack([torch.as_tensor(view[i]) for view in kept]) for i in (0, 1))
        return scenes_exercises._mean_and_variance(features.nan_to_num(0.0), mask)

    verdict = check("scenes.6", mean_and_variance, seed=0)
    assert not verdict and ("kept in memory" in verdict.message or "24 are allowed" in verdict.message)
