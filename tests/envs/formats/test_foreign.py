"""Files that no problem reads are called what they are."""

import pytest

from ncogym.envs.formats.foreign import described

HAMILTON = "NAME : alb3\nTYPE : HCP\nDIMENSION : 3\nEDGE_DATA_FORMAT : EDGE_LIST\nEDGE_DATA_SECTION\n1 2\n-1\nEOF\n"
FLEXIBLE = "2 3 2\n 1 2 1 5 3 4\n2  1 2 6  2 1 1 2 2\n\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("road.csv", "0.00,37.57\n37.57,0.00\n", "it is a table, whose columns have no fixed meaning; write a TSPLIB"),
        ("Road.XLSX", "PK", "it is a table"),
        ("graph.pkl", "\x80", "it is a pickle, which runs code when it is opened and is never read; save its arrays"),
        ("weights.pt", "PK", "it is a pickle"),
        ("lone.npy", "\x93NUMPY", "it is an array without a name; save its arrays by name with numpy.savez"),
        ("many.npz", "PK", "it is a file of arrays, many instances in one; `ncogym evaluate --instances` takes it"),
        ("alb3.hcp", HAMILTON, "its header says TYPE HCP, which is that of no problem here"),
        ("a.oplib", HAMILTON.replace("HCP", "OP").lower(), "its header says TYPE OP, which is that of no problem here"),
        ("c125.clq", "c a graph\np col 3 2\ne 1 2\ne 2 3\n", "it is a graph in DIMACS' format"),
        ("mk.fjs", FLEXIBLE, "it is a flexible job shop, whose operations choose among machines"),
        ("mk.txt", FLEXIBLE, "it is a flexible job shop, whose operations choose among machines"),
        ("mk.txt", FLEXIBLE.replace("2 3 2", "2 3 1.5"), "it is a flexible job shop"),
    ],
)
def test_what_people_bring_is_named(name, text, words, tmp_path):
    """The suffix, a header or the shape of the text tells it, and the line says what can be done."""
    (tmp_path / name).write_text(text)
    assert words in described(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type of a thing\n",
        "3 10\n12 6\n9 5\n",
        FLEXIBLE + "1 1 1 1\n",
        FLEXIBLE[:-4],
        "2 3\n9 9 9\n9 9\n",
        "1 1\n1 x 1 1\n",
    ],
)
def test_nothing_is_made_up(text, tmp_path):
    """Of what nothing tells, nothing is said; a file that cannot be read is for its reader to refuse."""
    (tmp_path / "a.dat").write_text(text)
    assert described(tmp_path / "a.dat") is None
    assert described(tmp_path / "none.dat") is None
