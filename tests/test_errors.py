from biprop.errors import abbreviated, did_you_mean, one_line


def test_one_line_whatever_the_exception_says() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 200


def test_the_nearest_word_is_offered_whatever_its_case() -> None:
    assert did_you_mean("cifar10", ["digits", "CIFAR10"]) == "; did you mean 'CIFAR10'?"
    assert did_you_mean("MNITS", ["digits", "MNIST"]) == "; did you mean 'MNIST'?"
    assert did_you_mean("qqq", ["digits", "CIFAR10"]) == ""


def test_values_from_files_are_shown_in_one_line() -> None:
    assert abbreviated("ä b") == "ä b"
    assert abbreviated(3) == "3"
    assert abbreviated("a\nb\u202e\x1b[2J") == r"'a\nb\u202e\x1b[2J'"
    assert abbreviated("x" * 100) == "x" * 80 + "..."
    assert one_line(ValueError("a \ufeff b")).isprintable()
