"""YAML that people write: what is read, what is refused, and the words for a key that there is not."""

import pytest
import yaml

from engine.keys import no_such_key, read_yaml


def test_yaml_is_read_with_its_merge_keys():
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


BOMB = "a0: &a0 {x: 1, y: 2, z: 3}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)
)
REFUSED = [
    ("a key twice", "steps: 1\nsteps: 2\n", "'steps' is given twice"),
    ("the same below", "a: {x: 1, x: 1}\n", "'x' is given twice"),
    ("a small text that its merges make large", BOMB, "its merge keys make too much of it"),
    ("an object of Python", "!!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
]


@pytest.mark.parametrize(("why", "text", "said"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_is_refused(why, text, said):
    with pytest.raises(yaml.YAMLError, match=said):
        read_yaml(text)


def test_a_key_that_there_is_not_is_answered_with_the_one_meant_or_with_all():
    assert no_such_key("stepps", ["name", "steps"]) == "no such key; did you mean 'steps'?"
    assert no_such_key("xyz", ["name", "steps"]) == "no such key; there are name, steps"
