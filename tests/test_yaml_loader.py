import pytest
import yaml

from biprop.config.yaml_loader import MAX_DEPTH, PlainLoader


def test_plain_values_are_read_as_ever() -> None:
    text = "a: 1\nb: [x, 0.5, true]\nc: {d: null, e: {f: 1}}\n"
    assert yaml.load(text, PlainLoader) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x\n", "an alias"),
        ("a: &x {c: 1}\nb: {<<: *x}\n", "an alias"),
        ("a: &x [*x]\n", "an alias"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' comes twice"),
        ("a: {b: 1, b: 2}\n", "the key 'b' comes twice"),
        ("a: " + "[" * 20_000 + "]" * 20_000, f"more than {MAX_DEPTH} levels"),
        ("a: " + "{b: " * 20_000, f"more than {MAX_DEPTH} levels"),
        ("- " * 20_000, f"more than {MAX_DEPTH} levels"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
    ],
    ids=range(9),
)
def test_what_grows_or_means_two_things_is_refused(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError, match=said):
        yaml.load(text, PlainLoader)
