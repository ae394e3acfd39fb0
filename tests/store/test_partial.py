"""The folder of unfinished work: its lock, its parts, what it refuses and what it leaves alone."""

import pytest

from unitprobe.errors import ContentsMismatchError, StoreError, StoreExistsError
from unitprobe.store.lock import holder_of, is_held
from unitprobe.store.partial import LOCK, PartialFolder, Work, differences

TRAINING = Work("training run", "trained", r"epoch-\d+|log")


@pytest.fixture
def partial(tmp_path):
    return PartialFolder(tmp_path / "net.nc", TRAINING)


def test_a_part_is_read_as_it_was_written(partial):
    with partial:
        partial.write("epoch-1", b"weights\nof one epoch")
        assert partial.read("epoch-1") == b"weights\nof one epoch"
        assert partial.names() == ["epoch-1"]
    assert partial.folder.name == "net.nc.partial"


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_part_is_refused(partial, damage):
    with partial:
        partial.write("epoch-1", b"weights")
        path = partial.folder / "epoch-1"
        whole = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + b"x")
        with pytest.raises(StoreError, match=r"epoch-1 is damaged; start again"):
            partial.read("epoch-1")


def test_a_folder_without_parts_is_deleted(partial):
    with partial:
        assert (partial.folder / LOCK).exists()
    assert not partial.folder.exists()


def test_a_folder_with_parts_stays_for_the_next_run(partial):
    with partial:
        partial.write("log", b"1")
    with partial:
        assert partial.read("log") == b"1"
        partial.clear()
        assert partial.names() == []


def test_files_of_something_else_are_named_and_left_alone(partial):
    partial.folder.mkdir()
    (partial.folder / "thesis.txt").write_text("all of it")
    with pytest.raises(StoreExistsError, match=r"unfinished training run: it holds thesis\.txt"):
        partial.acquire()
    assert (partial.folder / "thesis.txt").read_text() == "all of it"


def test_one_run_at_a_time_works_in_a_folder(partial, tmp_path):
    with partial:
        assert is_held(partial.folder / LOCK)
        with pytest.raises(StoreExistsError, match=r"is being trained by another process"):
            PartialFolder(tmp_path / "net.nc", TRAINING).acquire()
        assert holder_of(partial.folder / LOCK).startswith("process ")
    assert not is_held(partial.folder / LOCK)


def test_processes_of_one_run_share_a_folder(partial, tmp_path):
    other = PartialFolder(tmp_path / "net.nc", TRAINING)
    with partial:
        partial.share()
        other.acquire(shared=True)
        other.release()  # only the process that began deletes the folder
        assert partial.folder.exists()


def test_work_that_depends_on_something_else_is_not_continued(partial):
    with partial:
        partial.check_contents({"alpha": "-1", "seed": 0}, {"alpha": "-1"})
        with pytest.raises(ContentsMismatchError, match=r"alpha '-1' there, '0' now"):
            partial.check_contents({"alpha": "-1"}, {"alpha": "0"})


def test_long_values_are_shortened_in_a_difference():
    (words,) = differences({}, {"layers": "x" * 100})
    assert words.startswith("layers None there, 'xxx")
    assert len(words) < 80
