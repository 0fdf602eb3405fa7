import pytest

from stn_cli.datasets.class_folders import class_folders

SOUND = [
    [str(number) for number in range(10)],
    ["airplane", "automobile", "bird"],
    ["B", "a b", "c.d", "naïve", "猫"],
]
TAKEN = [
    "con",
    "NUL.txt",
    "com1",
    "LPT¹ .x",
    "",
    ".",
    "..",
    ".hidden",
    "a.",
    "a ",
    " a",
    "a\n",
    "a/b",
    "a\\b",
    "C:",
    "?*",
]
ODD = [
    *([name, "zzz"] for name in TAKEN),
    ["a" * 61, "b"],
    ["a", "A"],
    ["a", "a"],
    ["b", "a"],
    ["\ud800", "a"],
    ["\xc5", "A\u030a"],
]


@pytest.mark.parametrize("classes", SOUND)
def test_names_that_serve_everywhere_are_kept(classes: list[str]) -> None:
    assert class_folders(classes) == sorted(classes) == classes


@pytest.mark.parametrize("classes", [*ODD, [str(number) for number in range(100)]])
def test_others_get_numbers(classes: list[str]) -> None:
    folders = class_folders(classes)
    assert folders == sorted(folders)
    assert [int(name.partition("-")[0]) for name in folders] == list(range(len(classes)))
    for name in folders:
        assert name.isprintable()
        assert not set(name) & set('<>:"/\\|?*')
        assert not name.endswith((" ", "."))
        assert len(name.encode()) < 255


def test_odd_letters_become_underscores() -> None:
    classes = ["T-shirt/top", "Trouser", "Pullover"]
    assert class_folders(classes) == ["0-T-shirt_top", "1-Trouser", "2-Pullover"]
    assert class_folders([str(number) for number in range(100)])[9:11] == ["09-9", "10-10"]
