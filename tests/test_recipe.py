"""Settings, recipes and keys: what enters them, and what each change recomputes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cache import digests
from cache.keys import key, short
from pipeline.errors import UserError
from pipeline.plan import chain, machine
from pipeline.plan import recipe as recipes
from pipeline.plan.chain import artifacts_of, keys
from pipeline.plan.document import render
from pipeline.plan.inputs import Options, plan_run
from pipeline.plan.recipe import Recipe, VideoRecipe
from pipeline.plan.settings import RunSettings, find, gather, override, parse_set, single
from stages.flow_methods import METHODS
from tests.tiny_run import write_dataset, write_weights

MODULES = ("trunk", "rpn", "mask", "reid", "remp", "remp_plain", "msk")
VIDEO = VideoRecipe("i", "m", "a", "/weights", {name: name for name in MODULES})


def recipe(settings: Mapping[str, str] | None = None, **video: object) -> Recipe:
    made = replace(VIDEO, **video)  # type: ignore[arg-type]
    chosen = override(RunSettings(), settings or {})
    return Recipe("davis17", "/data", "val", None, "auto", chosen, {"ant": made})


def changed(other: Recipe, base: Recipe | None = None) -> set[str]:
    """Stages whose keys differ from those of the base."""
    before, after = keys(base or recipe(), "ant"), keys(other, "ant")
    return {name.split("(")[0] for name in after if before.get(name) != after[name]}


AFTER_MATCHES = {"matches", "tracklets", "tubes", "scores"}


def weights(name: str) -> dict[str, str]:
    return {**VIDEO.modules, name: "another"}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (recipe({"matches.rho_reid": "0.9"}), AFTER_MATCHES),
        (
            recipe({"proposals.per_frame": "50"}),
            {"proposals", "embeddings", "evidence", *AFTER_MATCHES},
        ),
        (recipe({"tubes.rival": "0.3"}), AFTER_MATCHES),
        (
            recipe({"frames.height": "240"}),
            {
                "features",
                "flow",
                "proposals",
                "embeddings",
                "search",
                "evidence",
                *AFTER_MATCHES,
            },
        ),
        (recipe(modules=weights("rpn")), {"proposals", "embeddings", "evidence", *AFTER_MATCHES}),
        (recipe(modules=weights("reid")), {"embeddings", "search", "evidence", *AFTER_MATCHES}),
        (recipe({"search.windows": "0"}), {"search", "evidence", *AFTER_MATCHES}),
        (recipe(modules=weights("mask")), {"evidence", *AFTER_MATCHES}),
        (recipe(modules=weights("remp")), {"evidence", *AFTER_MATCHES}),
        (recipe(modules=weights("remp_plain")), set()),
        (recipe(modules=weights("msk")), set()),
        (
            recipe(modules=weights("trunk")),
            {"features", "proposals", "embeddings", "search", "evidence", *AFTER_MATCHES},
        ),
        (recipe(first_masks="other"), {"frames", "search", "evidence", *AFTER_MATCHES}),
        (recipe(annotations="other"), {"frames", "scores"}),
        (recipe(weights="/elsewhere"), set()),
        (
            recipe(images="other"),
            {
                "frames",
                "features",
                "flow",
                "proposals",
                "embeddings",
                "search",
                "evidence",
                *AFTER_MATCHES,
            },
        ),
        (recipe({"run.max_iterations": "2"}), set()),
    ],
)
def test_a_change_recomputes_what_follows_it(other: Recipe, expected: set[str]) -> None:
    assert changed(other) == expected


def test_first_iteration_stays_where_only_later_ones_change() -> None:
    base, other = (keys(r, "ant") for r in (recipe(), recipe({"tubes.rival": "0.3"})))
    assert base["matches(1)"] == other["matches(1)"]
    assert base["tracklets(1)"] == other["tracklets(1)"]
    assert base["matches(2)"] != other["matches(2)"]


def test_a_later_setting_enters_a_key_only_where_it_is_not_its_default() -> None:
    """Artifacts made before the setting came keep their keys."""
    settings = artifacts_of(recipe(), "ant")["matches(2)"].content["settings"]
    assert set(settings) == {"rho_reid", "evidence", "templates", "template_gap", "skip_iou"}
    found = artifacts_of(recipe({"tracklets.cuts": 0.5}), "ant")["matches(2)"]
    assert found.content["settings"] == settings | {"cuts": 0.5}
    for name, value in (("template_set", "growing"), ("starts", "all")):
        other = recipe({f"matches.{name}": value})
        assert changed(other) == AFTER_MATCHES
        assert artifacts_of(other, "ant")["matches(2)"].content["settings"] == {
            **settings,
            name: value,
        }


def test_growing_templates_read_the_tubes_of_all_iterations_before() -> None:
    base, other = (
        artifacts_of(recipe(), "ant"),
        artifacts_of(recipe({"matches.template_set": "growing"}), "ant"),
    )
    for k in range(1, 5):
        tubes = [f"tubes({i})" for i in range(1, k)]
        assert [name for name in base[f"matches({k})"].reads if name[:2] == "tu"] == tubes[-1:]
        assert sorted(n for n in other[f"matches({k})"].reads if n[:2] == "tu") == tubes


def test_device_root_and_path_enter_no_key() -> None:
    moved = replace(recipe(), device="cpu", root="/elsewhere", split="train", masks="/masks")
    assert keys(moved, "ant") == keys(recipe(), "ant")


def test_precision_enters_where_networks_run() -> None:
    other = recipe({"run.precision": "fp32"})
    unchanged = set(keys(other, "ant")) - {
        name for name in keys(other, "ant") if name.split("(")[0] in changed(other)
    }
    assert unchanged == {"frames", "flow"}


def test_variants() -> None:
    stages = {
        variant: [name.split("(")[0] for name in keys(recipe({"run.variant": variant}), "ant")]
        for variant in ("remp", "remp-no-attention", "msk")
    }
    chain = ["frames", "flow", "features", "matches", "tracklets", "tubes", "scores"]
    assert stages["remp"] == stages["remp-no-attention"] == chain
    assert stages["msk"] == ["frames", "flow", "msk", "scores"]
    remp = recipe({"run.variant": "remp"})
    assert changed(recipe({"run.variant": "remp", "matches.rho_reid": "0.2"}), remp) == set()
    assert changed(recipe({"run.variant": "remp"}, modules=weights("reid")), remp) == set()


def test_given_masks_come_first_as_re_mp_alone() -> None:
    plan, alone = artifacts_of(recipe(), "ant"), keys(recipe({"run.variant": "remp"}), "ant")
    given = {name: spec for name, spec in plan.items() if spec.given}
    assert list(given) == [f"{s}(given)" for s in ("matches", "tracklets", "tubes", "scores")]
    for name, spec in given.items():
        assert spec.key == alone[name.replace("given", "1")]
        assert set(spec.reads) <= {*alone, *given}
    settled = ["frames", "flow", "features", *given]
    assert list(chain.needed(plan, settled=True)) == settled
    retrieved = [name for name in plan if name not in ("tubes(given)", "scores(given)")]
    assert list(chain.needed(plan, settled=False)) == retrieved
    always = keys(recipe({"run.retrieval": "always"}), "ant")
    assert always == {name: spec.key for name, spec in plan.items() if not spec.given}


def test_without_annotations_there_are_no_scores() -> None:
    assert not [name for name in keys(recipe(annotations=None), "ant") if "scores" in name]


def test_recipe_survives_its_file(tmp_path: Path) -> None:
    recipe().write(tmp_path)
    assert recipes.read(tmp_path, recipe().digest) == recipe()
    with pytest.raises(UserError, match="holds no recipe 0123"):
        recipes.read(tmp_path, "0123")


MADE_FROM = {
    "frames": "",
    "flow": "",
    "features": "",
    "proposals": "features",
    "embeddings": "features proposals",
    "search": "features",
    "evidence": "features proposals embeddings search",
    "matches(2)": "features proposals embeddings search evidence tubes(1) tracklets(1)",
    "tracklets(2)": "matches(2) tracklets(1) features flow",
    "tubes(2)": "tracklets(2)",
    "scores(2)": "tubes(2)",
}
"""artifacts that enter the key"""
READ_BESIDES = {
    "flow": "frames",
    "features": "frames",
    "proposals": "frames",
    "search": "frames",
    "evidence": "frames",
    "matches(2)": "frames matches(1)",
    "tubes(2)": "frames matches(1) matches(2) tubes(1)",
    "scores(2)": "matches(1) matches(2) scores(1)",
}


def test_what_each_stage_is_made_from_and_reads() -> None:
    found = artifacts_of(recipe(), "ant")
    for name, inputs in MADE_FROM.items():
        assert list(found[name].content["inputs"]) == inputs.split()
        assert list(found[name].reads) == [*inputs.split(), *READ_BESIDES.get(name, "").split()]


@pytest.mark.parametrize(
    ("variant", "digest"),
    [
        ("dyenet", "743559aecb40ae9b"),
        ("remp", "126353a3530551cb"),
        ("remp-no-attention", "f8370ab55fcc18fe"),
        ("msk", "b0b63fe0caec2e2d"),
    ],
)
def test_artifacts_of_before_keep_their_keys(
    variant: str, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under equal versions of all stages and libraries; the digests are those of earlier code."""
    monkeypatch.setattr(chain, "version", lambda stage: 1)
    monkeypatch.setattr(chain, "schema_version", lambda stage: 1)
    fixed = replace(METHODS["dis"], libraries=lambda: {"opencv": "4"})
    monkeypatch.setitem(METHODS, "dis", fixed)
    made = keys(recipe({"run.variant": variant, "run.precision": "fp32"}), "ant")
    made = {name: made[name] for name in made if "(given)" not in name}
    assert short(key(made)) == digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proposals.perframe=50", "did you mean proposals.per_frame"),
        ("rho_reid=0.5", "did you mean matches.rho_reid"),
        ("0.5", "write name=value"),
    ],
)
def test_unknown_settings(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_set(text)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("proposals.per_frame", "many", "must be an integer, 1 to 1000"),
        ("proposals.per_frame", "0", "must be an integer, 1 to 1000"),
        ("matches.rho_reid", "nan", "must be a number, -1 to 2"),
        ("flow.method", "best", "must be one of dis, raft"),
        ("run.variant", "dyanet", "must be one of dyenet, remp"),
    ],
)
def test_values_out_of_range(name: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=f"{name} = .*{message}"):
        override(RunSettings(), {name: value})


def test_lists_are_for_sweeps() -> None:
    given = gather(["tubes.rival=0.2,0.3,tracklets.skip_iou=0.5"], {"rho_reid": "0.8"})
    assert given == {
        "tubes.rival": ("0.2", "0.3"),
        "tracklets.skip_iou": ("0.5",),
        "matches.rho_reid": ("0.8",),
    }
    with pytest.raises(UserError, match=r"tubes\.rival: takes one value here"):
        single(given)


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    assert text == render(), "run `python -m pipeline.plan.document > docs/settings.md`"
    assert find("matches.rho_reid").default == 0.7


def test_planning_again_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "RACY_NS", 0)
    root = write_dataset(tmp_path / "data")
    options = Options("davis17", str(root), weights=str(write_weights(tmp_path / "w.safetensors")))
    first = plan_run(options, tmp_path / "cache")
    monkeypatch.setattr(digests, "_read", lambda path: pytest.fail(f"read {path}"))
    assert plan_run(options, tmp_path / "cache") == first


@pytest.mark.parametrize(
    ("asked", "device", "flags", "expected"),
    [
        ("auto", "cpu", "flags : avx2 fma", "fp32"),
        ("auto", "cpu", "flags : avx512f avx512_bf16", "bf16"),
        ("auto", "auto", "flags : amx_bf16", "bf16"),
        ("auto", "cuda", "flags : avx2", "bf16"),
        ("bf16", "cpu", "flags : avx2", "bf16"),
        ("fp32", "cuda", "flags : amx_bf16", "fp32"),
    ],
)
def test_auto_precision_is_what_the_hardware_has(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    device: str,
    flags: str,
    expected: str,
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(machine, "CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "NVIDIA", tmp_path / "none")
    settings = override(RunSettings(), {"run.precision": asked})
    assert machine.with_precision(settings, device).run.precision == expected
