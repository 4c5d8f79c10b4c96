import pytest

from compiler.errors import SpecError
from models.recipe import Recipe


def test_learning_rate_warms_up_and_fades_to_zero() -> None:
    recipe = Recipe(rate=2, steps=1000, learning_rate=1.0, warmup=10)
    assert recipe.learning_rate_at(0) == pytest.approx(0.1)
    assert recipe.learning_rate_at(500) == pytest.approx(0.5)
    assert 0 < recipe.learning_rate_at(999) < 1e-5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("size", 7), ("synthetic", 1.0), ("average", -0.1), ("luma", -1.0)),
        *(("learning_rate", 0.0), ("factors", ()), ("factors", (0.5, 2))),
        *(("floor", 0.0), ("noise", (1.0, 2.0)), ("noise", (1.0, -1.0, 1.0))),
    ],
)
def test_refuses_senseless_recipes(name: str, value: object) -> None:
    with pytest.raises(SpecError, match=name) as refusal:
        Recipe(**{"rate": 3, "steps": 10, name: value})
    assert name.replace("_", "-") in refusal.value.fix
