"""Features, proposals, embeddings and matches, with the real tiny networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backbone import Trunk
from models.config import Architecture
from stages.boxmask import tight
from stages.embeddings import embeddings
from stages.features import features
from stages.matches import Retrieval, Templates, expand, matches, retrieve
from stages.proposals import proposals
from stages.seen import SeenBoxes
from stages.settings import MatchesSettings, ProposalsSettings
from stages.starts import rank
from stages.types import Matches, Offers, StartingPoint, Tracklet
from tests import reference
from tests.clip import FRAMES, SIZE, Clip, Features, Proposals, make_clip
from tests.networks import random_networks, without

NOTHING = Offers(
    np.zeros(0, np.int32),
    np.zeros(0, np.int32),
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip()


def test_features_as_tensors_are_looked_at_alike(clip: Clip) -> None:
    f, boxes, nets = clip.features.coarse(0), clip.proposals.boxes(0), clip.networks
    tensor = torch.from_numpy(f)
    np.testing.assert_array_equal(nets.embed(tensor, boxes), nets.embed(f, boxes))
    np.testing.assert_array_equal(nets.masks(tensor, boxes), nets.masks(f, boxes))


def test_features_do_not_depend_on_the_length_of_the_video(clip: Clip) -> None:
    h, w = -(-SIZE[0] // 8), -(-SIZE[1] // 8)
    for count in (1, 2, 3):
        part = list(features(clip.images[:count], clip.networks))
        assert len(part) == count
        for j, (f, f4) in enumerate(part):
            assert f.dtype == np.float16 and f.shape[1:] == (h, w) and f.flags.c_contiguous
            assert f4 is not None and f4.shape[1:] == (2 * h, 2 * w)
            np.testing.assert_array_equal(f, clip.features.coarse(j))
            np.testing.assert_array_equal(f4, clip.features.fine(j))


def test_features_equal_the_network_on_one_frame(clip: Clip) -> None:
    image = torch.from_numpy(clip.images[3]).permute(2, 0, 1)[None]
    with clip.networks.inference():
        f, _ = clip.networks.need("trunk", Trunk)(image)
    np.testing.assert_allclose(f[0].numpy(), clip.features.coarse(3), rtol=2e-3, atol=2e-3)


def test_proposals_and_embeddings(clip: Clip) -> None:
    found = list(proposals(clip.features, SIZE, clip.networks, ProposalsSettings(per_frame=5)))
    assert len(found) == FRAMES
    for boxes, objectness in found:
        assert boxes.shape == (5, 4) and boxes.dtype == objectness.dtype == np.float32
        assert (np.diff(objectness) <= 0).all()
        assert (boxes >= 0).all() and (boxes <= np.array([SIZE[1], SIZE[0]] * 2)).all()
    vectors = list(embeddings(clip.features, lambda j: found[j][0], clip.networks))
    for v in vectors:
        assert v.shape == (5, 256) and v.dtype == np.float32
        np.testing.assert_allclose((v**2).sum(1), 1, atol=1e-4)
    # the five best of twelve are the five best of five, and embed alike among others
    np.testing.assert_array_equal(vectors[2], clip.proposals.embeddings(2)[:5])


def test_frames_without_proposals_have_no_embeddings(clip: Clip) -> None:
    none = np.zeros((0, 4), np.float32)
    vectors = next(embeddings(clip.features, lambda j: none, clip.networks))
    assert vectors.shape == (0, 256)


def test_weights_without_a_module_are_named(clip: Clip) -> None:
    bare = random_networks(Architecture.tiny(), modules=["trunk"])
    with pytest.raises(ValueError, match="rpn"):
        next(proposals(clip.features, SIZE, bare, ProposalsSettings()))
    with pytest.raises(ValueError, match="reid"):
        next(embeddings(clip.features, clip.proposals.boxes, bare))


def run(
    clip: Clip,
    iteration: int = 1,
    *,
    offers: Sequence[Offers] = (),
    tracklets: Sequence[Tracklet] = (),
    retrieves: bool = True,
    **changes: Any,
) -> Matches:
    """Matches of the clip with some fields of Retrieval changed."""
    retrieval = Retrieval(
        features=clip.features,
        first_masks={0: clip.annotations[0]},
        networks=clip.networks,
        settings=MatchesSettings(rho_reid=0.5),
        skip_iou=0.7,
        cuts=0.0,
        masks=SeenBoxes(),
        vectors=SeenBoxes(),
    )
    proposals = clip.proposals if retrieves else None
    return matches(replace(retrieval, **changes), proposals, offers, tracklets, iteration)


def naive(clip: Clip, rho: float, templates: dict[int, list[np.ndarray]]) -> list[StartingPoint]:
    starts = []
    for j in range(FRAMES):
        known = [1, 3] if j == 0 else []
        found = clip.proposals.embeddings(j), clip.proposals.evidence(j)
        rows = reference.retrieved(*found, templates, known, rho, MatchesSettings().evidence)
        for i, n, similarity in rows:
            box = clip.proposals.boxes(j)[n]
            mask = clip.networks.masks(clip.features.coarse(j), box[None])[0]
            if any(v > 127 for row in mask for v in row):
                starts.append(StartingPoint(j, i, similarity, box, mask, False))
    return starts


def given_templates(clip: Clip) -> dict[int, list[np.ndarray]]:
    first = clip.annotations[0]
    return {
        i: [clip.networks.embed(clip.features.coarse(0), tight(first == i)[None])[0]]
        for i in (1, 3)
    }


@pytest.mark.parametrize("rho", [0.5, 0.9, 0.96, 0.98])
def test_matches_equal_the_loop(clip: Clip, rho: float) -> None:
    found = run(clip, settings=MatchesSettings(rho_reid=rho))
    assert not found.converged
    assert [(s.frame, s.object_id, s.similarity) for s in found.starts[:2]] == [
        (0, 1, 1),
        (0, 3, 1),
    ]
    assert all(s.given for s in found.starts[:2])
    expected = naive(clip, rho, given_templates(clip))
    expected = [expected[n] for n in reference.order(expected)]
    assert len(found.starts) - 2 == len(expected)
    for s, e in zip(found.starts[2:], expected, strict=True):
        assert (s.frame, s.object_id, s.given) == (e.frame, e.object_id, False)
        assert s.similarity == pytest.approx(e.similarity, abs=1e-5)
        np.testing.assert_array_equal(s.box, e.box)
        np.testing.assert_array_equal(s.mask, e.mask)


def test_no_more_starts_with_a_higher_threshold(clip: Clip) -> None:
    counts = [
        len(run(clip, settings=MatchesSettings(rho_reid=rho)).starts)
        for rho in (0.5, 0.9, 0.95, 0.97, 1.2, 2.0)
    ]
    assert counts == sorted(counts, reverse=True) and counts[0] > 2 and counts[-1] == 2


def test_later_iterations_return_only_what_is_retrieved_and_converge(clip: Clip) -> None:
    second = run(clip, iteration=2)
    assert second.starts and not any(s.given for s in second.starts) and not second.converged
    none = run(clip, iteration=2, settings=MatchesSettings(rho_reid=2.0))
    assert none == Matches((), True)


def test_without_retrieval_only_the_given_masks(clip: Clip) -> None:
    first = run(clip, retrieves=False)
    assert [s.object_id for s in first.starts] == [1, 3] and not first.converged
    assert run(clip, iteration=2, retrieves=False) == Matches((), True)


def test_an_object_may_first_be_given_later(clip: Clip) -> None:
    late = np.where(clip.annotations[4] == 3, clip.annotations[4], 0).astype(np.uint8)
    early = np.where(clip.annotations[0] == 1, clip.annotations[0], 0).astype(np.uint8)
    found = run(clip, first_masks={4: late, 0: early}, settings=MatchesSettings(rho_reid=0.5))
    assert [(s.frame, s.object_id) for s in found.starts[:2]] == [(0, 1), (4, 3)]
    rest = {(s.frame, s.object_id) for s in found.starts[2:]}
    assert (0, 1) not in rest and (4, 3) not in rest


def test_what_accepted_tracklets_cover_is_left_out(clip: Clip) -> None:
    found = run(clip, iteration=2)
    chosen = found.starts[0]
    owner = Tracklet(chosen, 1, chosen.frame, chosen.box[None], chosen.mask[None])
    again = run(clip, iteration=2, tracklets=(owner,))
    assert len(again.starts) == len(found.starts) - 1
    assert (chosen.frame, chosen.object_id) not in {(s.frame, s.object_id) for s in again.starts}
    stranger = replace(owner, start=replace(chosen, object_id=9))
    assert len(run(clip, iteration=2, tracklets=(stranger,)).starts) == len(found.starts)
    everything = [Tracklet(s, 1, s.frame, s.box[None], s.mask[None]) for s in found.starts]
    assert run(clip, iteration=2, tracklets=everything).converged


def test_a_settled_object_gets_no_more_starting_points(clip: Clip) -> None:
    found = run(clip, iteration=2)
    given = replace(clip.start(0, 1, 1.0, given=True), box=np.array([0, 0, 1, 1], np.float32))
    line = np.repeat(given.box[None], FRAMES, 0), np.repeat(given.mask[None], FRAMES, 0)
    again = run(clip, iteration=2, tracklets=(Tracklet(given, 1, 0, *line),))
    assert {s.object_id for s in found.starts} == {1, 3}
    assert {s.object_id for s in again.starts} == {3}


def test_masks_are_computed_once(clip: Clip) -> None:
    memo = SeenBoxes()
    first = run(clip, masks=memo)
    before = dict(memo.known)
    assert len(before) >= len(first.starts) - 2
    second = run(clip, masks=memo, networks=without(clip.networks, "mask"))
    assert memo.known == before
    for a, b in zip(first.starts, second.starts, strict=True):
        assert a.mask.tobytes() == b.mask.tobytes() and a.box.tobytes() == b.box.tobytes()


def test_given_masks_and_confirmed_offers_are_the_templates(clip: Clip) -> None:
    boxes = {j: tight(clip.annotations[j] == 1) for j in range(1, FRAMES)}
    offers = Offers(
        np.array(list(boxes), np.int32),
        np.ones(len(boxes), np.int32),
        np.stack(list(boxes.values())),
        np.array([0.9, 0.95, 0.99, 0.97, 0.85, 0.95], np.float32),
    )
    chosen = MatchesSettings(rho_reid=0.5, template_gap=2, templates=3)
    found = run(clip, iteration=2, offers=[offers], settings=chosen)
    offered = [
        (j, 1, float(c), clip.networks.embed(clip.features.coarse(j), box[None])[0])
        for (j, box), c in zip(boxes.items(), offers.confidences, strict=True)
    ]
    gallery = reference.expanded(given_templates(clip), offered, {(0, 1), (0, 3)}, 0.5, 3, 2)
    # no vector is computed that was seen before
    memo = SeenBoxes()
    run(clip, iteration=2, offers=[offers], settings=chosen, vectors=memo)
    bare = without(clip.networks, "reid")
    again = run(clip, iteration=2, offers=[offers], settings=chosen, vectors=memo, networks=bare)
    assert [s.similarity for s in again.starts] == [s.similarity for s in found.starts]
    assert len(gallery[1]) == 4 and len(gallery[3]) == 1
    assert found.templates == ((1, 1), (3, 1), (6, 1))
    expected = naive(clip, 0.5, gallery)
    expected = [expected[n] for n in reference.order(expected)]
    assert [(s.frame, s.object_id) for s in found.starts] == [
        (s.frame, s.object_id) for s in expected
    ]
    # an empty offer is no offer
    assert len(run(clip, iteration=2, offers=[NOTHING]).starts) == len(
        run(clip, iteration=2).starts
    )


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(0, 9),
    st.floats(-1, 1),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from(["best", "all"]),
)
def test_retrieval_equals_the_loop(
    seed: int, count: int, rho: float, weight: float, starts: str
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng, count)
    gallery = {i: unit(rng, int(rng.integers(1, 4))) for i in (2, 4, 7)}
    index = np.zeros((4, 4), np.uint8)
    index[0, 0] = 4
    values = rng.random((count, 3)).astype(np.float32)
    boxes = np.arange(count * 4, dtype=np.float32).reshape(-1, 4)
    reader = Proposals([boxes], [vectors], [values])
    known = {0: index} if seed % 2 else {}
    chosen = MatchesSettings(rho_reid=rho, evidence=weight, starts=starts)
    found = retrieve(0, reader, gallery, known, chosen)
    lists = {i: list(t) for i, t in gallery.items()}
    expected = reference.retrieved(
        vectors, values, lists, [4] if known else [], rho, weight, starts == "all"
    )
    assert [(c.object_id, int(c.box[0]) // 4) for c in found] == [(i, n) for i, n, _ in expected]
    for c, (_, _, similarity) in zip(found, expected, strict=True):
        assert c.similarity == pytest.approx(similarity, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(0, 4), st.integers(1, 5), st.floats(-1, 1))
def test_expansion_equals_the_loop(seed: int, count: int, gap: int, rho: float) -> None:
    rng = np.random.default_rng(seed)
    known = {i: list(unit(rng, 2)) for i in (1, 2)}
    rows = [(j, i) for j in range(9) for i in (1, 2) if rng.random() < 0.6]
    vectors = unit(rng, len(rows))
    confidences = rng.choice([0.8, 0.9, 0.95, 1.0], len(rows))
    offers = Offers(
        np.array([j for j, _ in rows], np.int32),
        np.array([i for _, i in rows], np.int32),
        np.zeros((len(rows), 4), np.float32),
        confidences.astype(np.float32),
    )
    fixed = {(0, 1), (4, 2)}
    gallery: Templates = {i: list(v) for i, v in known.items()}
    chosen = MatchesSettings(rho_reid=rho, templates=count, template_gap=gap)
    frames: dict[int, list[int]] = {i: [] for i in known}
    expand(gallery, frames, offers, fixed, chosen, lambda n: vectors[n])
    added = [(j, i) for i, found in frames.items() for j in found]
    offered = [
        (j, i, float(c), v) for (j, i), c, v in zip(rows, offers.confidences, vectors, strict=True)
    ]
    expected = reference.expanded(known, offered, fixed, rho, count, gap)
    for i in known:
        np.testing.assert_array_equal(gallery[i], expected[i])
        assert sum(i == object_id for _, object_id in added) == len(expected[i]) - len(known[i])
    assert set(added) <= set(rows) - fixed


def test_all_proposals_over_rho_start_as_in_the_paper(clip: Clip) -> None:
    one, every = (
        run(clip, settings=MatchesSettings(rho_reid=0.5, starts=starts)).starts
        for starts in ("best", "all")
    )
    places = [[(s.frame, s.object_id) for s in found] for found in (one, every)]
    assert len(set(places[0])) == len(places[0]) and set(places[0]) <= set(places[1])
    assert len(set(places[1])) < len(places[1])
    # also where a mask is given
    assert sum(j == 0 for j, _ in places[1]) > sum(j == 0 for j, _ in places[0]) == 2
    assert [rank(s) for s in every] == sorted(rank(s) for s in every)
    kept = {(s.frame, s.object_id, s.box.tobytes(), s.mask.tobytes()) for s in every}
    assert {(s.frame, s.object_id, s.box.tobytes(), s.mask.tobytes()) for s in one} <= kept


def offer(clip: Clip, *rows: tuple[int, int, float]) -> Offers:
    """Offers of the annotated boxes, given as (frame, object, confidence)."""
    boxes = [tight(clip.annotations[j] == i) for j, i, _ in rows]
    return Offers(
        np.array([j for j, _, _ in rows], np.int32),
        np.array([i for _, i, _ in rows], np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([c for _, _, c in rows], np.float32),
    )


def test_templates_are_chosen_anew_or_only_grow(clip: Clip) -> None:
    first = offer(clip, (2, 1, 0.9), (4, 1, 0.95), (5, 3, 0.9))
    second = offer(clip, (4, 1, 0.9), (6, 1, 0.95), (3, 3, 0.9))
    limits = {"rho_reid": 0.5, "template_gap": 2, "templates": 1}
    for name, wanted in (
        ("chosen", {(6, 1), (3, 3)}),
        ("growing", {(4, 1), (5, 3), (6, 1), (3, 3)}),
    ):
        chosen = MatchesSettings(template_set=name, **limits)
        offers = [(first, second)[k - 1] for k in chosen.offering(3)]
        found = run(clip, iteration=3, offers=offers, settings=chosen)
        assert set(found.templates) == wanted
        assert len(found.templates) == len(wanted)
        again = run(clip, iteration=2, offers=[first], settings=chosen)
        assert set(again.templates) == {(4, 1), (5, 3)}
    # what was a template before keeps its distance from those that join
    near = replace(chosen, templates=5, template_gap=3)
    found = run(clip, iteration=3, offers=[first, second], settings=near)
    assert {j for j, i in found.templates if i == 1} == {4}


@given(st.integers(1, 20))
def test_a_growing_set_takes_the_offers_of_all_iterations_before(k: int) -> None:
    assert list(MatchesSettings().offering(k)) == ([k - 1] if k > 1 else [])
    assert list(MatchesSettings(template_set="growing").offering(k)) == list(range(1, k))


def test_features_are_read_only_where_there_are_candidates(clip: Clip) -> None:
    reader = Features(clip.features.rows)
    run(clip, iteration=2, features=reader, settings=MatchesSettings(rho_reid=2.0))
    # the templates of frame 0 and the frame's size; nothing to see anywhere else
    assert set(reader.reads) == {0}
