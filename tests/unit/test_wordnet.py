import pytest
from sightline.assets.wordnet import build_wordnet, is_complete, lexnames
from sightline.errors import AssetError

PARTS = ("noun", "verb", "adj", "adv")


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    names = [f"{kind}.{part}" for kind in ("data", "index") for part in PARTS]
    for name in [*names, *(f"{part}.exc" for part in PARTS), "index.sense", "cntlist.rev"]:
        (folder / name).write_text(f"content of {name}\n", encoding="ascii")
    return folder


def test_builds_whole_once_and_again(source, tmp_path):
    target = tmp_path / "data" / "corpora" / "wordnet"
    assert build_wordnet(source, target) == target
    assert is_complete(target, source)
    assert (target / "data.noun").read_text() == "content of data.noun\n"
    assert (target / "cntlist.rev").is_file()
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    build_wordnet(source, target)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert [path.name for path in target.parent.iterdir()] == ["wordnet"]


def test_mends_a_damaged_target_and_follows_the_source(source, tmp_path):
    target = build_wordnet(source, tmp_path / "wordnet")
    (target / "data.verb").write_text("torn", encoding="ascii")
    (target / "lexnames").unlink()
    build_wordnet(source, target)
    assert is_complete(target, source)
    assert (target / "data.verb").read_text() == "content of data.verb\n"


def test_absent_source_names_the_packages(source, tmp_path):
    (source / "index.sense").unlink()
    with pytest.raises(AssetError, match="apt-get install wordnet-base wordnet-sense-index") as caught:
        build_wordnet(source, tmp_path / "wordnet")
    assert "index.sense" in caught.value.problem
    assert not (tmp_path / "wordnet").exists()


def test_complete_target_needs_no_source(source, tmp_path):
    target = build_wordnet(source, tmp_path / "wordnet")
    assert build_wordnet(tmp_path / "gone", target) == target


def test_lexnames_are_numbered_files_with_their_class():
    lines = [line.split("\t") for line in lexnames().splitlines()]
    assert [int(number) for number, _, _ in lines] == list(range(45))
    assert lines[3] == ["03", "noun.Tops", "1"]
    assert lines[44] == ["44", "adj.ppl", "3"]
    assert {(name.split(".")[0], kind) for _, name, kind in lines} == {
        ("noun", "1"), ("verb", "2"), ("adj", "3"), ("adv", "4"),
    }  # fmt: skip
