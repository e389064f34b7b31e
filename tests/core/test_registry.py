from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipalign.core.errors import UserError
from clipalign.core.registry import Registry

GROUP = "clipalign.test_kinds"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; modules imported from it are forgotten after the test."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def install(site: Path, distribution: str, **points: str) -> None:
    """Write the metadata of an installed distribution with entry points of GROUP."""
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name.replace('_', '-')} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]) + "\n")


def test_names_import_nothing(site: Path) -> None:
    (site / "kinds").mkdir()
    for name in ("base", "two_words", "alpha", "__init__"):
        (site / "kinds" / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    install(site, "extras", outside="not_there")
    registry: Registry[int] = Registry(
        "kind", GROUP, {"z-first": "not_there_either:x"}, package="kinds", skip=("base",)
    )
    registry.register("decorated")(lambda: None)
    assert registry.names() == ["z-first", "alpha", "two-words", "decorated", "outside"]
    assert "outside" in registry and "base" not in registry
    assert "kinds" not in sys.modules


@pytest.mark.parametrize("target", ["plug", "plug:Kind", "plug:Outer.inner"])
def test_get_loads_an_entry_point_once(site: Path, target: str) -> None:
    registry: Registry[object] = Registry("kind", GROUP)
    sys.modules.pop("plug", None)
    (site / "plug.py").write_text(
        "import registries\n"
        "class Kind: ...\n"
        "class Outer:\n    inner = Kind\n"
        + ("registries.kinds.register('mine')(Kind)\n" if target == "plug" else "")
    )
    (site / "registries.py").write_text("kinds = None\n")
    import registries  # type: ignore[import-not-found]

    registries.kinds = registry
    install(site, "extras", mine=target)
    assert "plug" not in sys.modules
    kind = registry.get("mine")
    assert kind.__name__ == "Kind"  # type: ignore[attr-defined]
    assert registry.get("mine") is kind and registry.all() == {"mine": kind}


def test_an_entry_point_may_name_an_object_that_is_also_registered(site: Path) -> None:
    (site / "plug.py").write_text("from registries import kinds\n@kinds.register('mine')\nclass Kind: ...\n")
    (site / "registries.py").write_text(
        f"from clipalign.core.registry import Registry\nkinds = Registry('kind', '{GROUP}')\n"
    )
    install(site, "extras", mine="plug:Kind")
    from registries import kinds  # type: ignore[import-not-found]

    assert kinds.get("mine").__name__ == "Kind"


def test_modules_are_read_with_and_without_attribute(site: Path) -> None:
    registry: Registry[object] = Registry("kind", GROUP, {"pi": "math:pi", "empty": "empty_module"})
    (site / "empty_module.py").write_text("")
    assert registry.get("pi") == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(TypeError, match='empty_module registers no kind "empty"'):
        registry.get("empty")


def test_unknown_names_raise_with_close_matches() -> None:
    registry: Registry[object] = Registry(
        "kind", GROUP, {"alpha": "math:pi", "beta": "math:e"}, flag="--kind"
    )
    with pytest.raises(UserError) as error:
        registry.get("alhpa")
    assert str(error.value) == '--kind: unknown "alhpa"; did you mean alpha? (known: alpha, beta)'
    with pytest.raises(UserError, match=r'^unknown kind "q" \(known: \)$'):
        Registry[object]("kind", GROUP).get("q")


def test_registering_a_name_twice_raises() -> None:
    registry: Registry[object] = Registry("kind", GROUP, {"own": "never_imported:x"})
    registry.register("mine")(int)
    for again in (int, float):
        with pytest.raises(TypeError, match=r'two kinds are named "mine": <class \'int\'> and <class'):
            registry.register("mine")(again)
    with pytest.raises(TypeError, match=r'two kinds are named "own".*never_imported'):
        registry.register("own")(int)
    assert registry.get("mine") is int


def test_two_distributions_with_one_name_raise(site: Path) -> None:
    install(site, "first", mine="math:pi", other="math:tau")
    install(site, "second", mine="math:e")
    registry: Registry[float] = Registry("kind", GROUP)
    with pytest.raises(
        UserError, match=r'two kinds are named "mine": math:(pi|e) of (first|second) 1.0 and math'
    ):
        registry.get("mine")
    assert registry.get("other") == pytest.approx(6.28318, abs=1e-5)


def test_a_distribution_with_a_name_of_the_package_raises(site: Path) -> None:
    install(site, "first", own="math:pi")
    registry: Registry[float] = Registry("kind", GROUP, {"own": "math:e"})
    with pytest.raises(UserError, match=rf'named "own": math:e and math:pi of first 1.0; .*\[{GROUP}\]'):
        registry.get("own")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module", r"ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:no_such_name", r"AttributeError: .*no_such_name.*"),
        ("broken", r"ZeroDivisionError: division by zero"),
        ("math", r'TypeError: math registers no kind "mine"'),
    ],
)
def test_broken_entry_points_raise_one_message(site: Path, target: str, reason: str) -> None:
    (site / "broken.py").write_text("1 / 0\n")
    install(site, "extras", mine=target)
    registry: Registry[object] = Registry("kind", GROUP)
    for _ in range(2):
        with pytest.raises(
            UserError, match=f'^kind "mine": cannot load {target} of extras 1.0 \\({reason}\\); '
        ):
            registry.get("mine")


def test_check_refuses_invalid_entries(site: Path) -> None:
    def check(name: str, entry: object) -> None:
        if not isinstance(entry, str):
            raise TypeError(f"{name} is no string")

    registry: Registry[str] = Registry("kind", GROUP, check=check)
    with pytest.raises(TypeError, match="one is no string"):
        registry.add("one", 1)  # type: ignore[arg-type]
    registry.add("word", "w")
    assert registry.all() == {"word": "w"}
    install(site, "extras", pi="math:pi")
    registry = Registry("kind", GROUP, check=check)
    with pytest.raises(UserError, match=r"cannot load math:pi of extras 1.0 .*pi is no string"):
        registry.get("pi")


def test_isolated_reads_entry_points_again_and_undoes_additions(site: Path) -> None:
    registry: Registry[object] = Registry("kind", GROUP)
    assert registry.names() == []
    install(site, "extras", pi="math:pi")
    assert registry.names() == []  # entry points are read once
    with registry.isolated():
        registry.add("one", 1)
        assert registry.names() == ["one", "pi"] and registry.get("pi") == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(UserError, match='unknown kind "one"'):
        registry.get("one")
