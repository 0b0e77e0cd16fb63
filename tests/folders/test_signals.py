"""SIGTERM clears away what is half done; Ctrl-C does not tear what must happen as a whole."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from optimum_snp.folders import atomic_folder, replacing, scratch, scratch_folder
from optimum_snp.folders.locks import try_lock
from optimum_snp.folders.signals import ending_cleanly, undisturbed
from tests.folders.places import end_at, make, save, version


def test_sigterm_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with atomic_folder(tmp_path / "model") as folder, scratch_folder() as scratch:
                (folder / "model.safetensors").write_text("half")
                (scratch / "model.safetensors").write_text("half")
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_the_model_is_in_place(number, tmp_path, monkeypatch, request):
    make(tmp_path / "model")
    exchange = replacing.exchange
    # A shell starts what it puts into the background with SIGINT ignored; here it ends things as at a terminal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupted(*folders):
        os.kill(os.getpid(), number)
        exchange(*folders)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(replacing, "exchange", interrupted)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        save(tmp_path / "model", "new")
    assert version(tmp_path / "model") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ending_cleanly(), undisturbed():
        pass
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_handler_of_the_user_stays():
    before = signal.signal(signal.SIGTERM, handler := lambda *_: None)
    try:
        with ending_cleanly():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_threads_save_as_well(tmp_path):
    thread = threading.Thread(target=save, args=(tmp_path / "model", "new"))
    thread.start()
    thread.join()
    assert version(tmp_path / "model") == "new"


def test_scratch_of_a_killed_process_is_cleared_away(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        with scratch_folder() as folder:
            (folder / "model.safetensors").write_text("half")
            os._exit(9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_folder() as mine:
        mine_alone = list(tmp_path.iterdir())
        assert mine_alone == [mine.parent]
        with scratch_folder():  # of a process that lives nothing is taken
            assert mine.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_scratch_of_a_process_killed_at_any_step_is_cleared_away(tmp_path, monkeypatch):
    """Also when it was made only now, and not locked yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def work():
        with scratch_folder() as folder:
            (folder / "model.safetensors").write_text("half")

    change = 1
    while end_at(change, work):
        with scratch_folder() as mine:
            assert list(tmp_path.iterdir()) == [mine.parent], change
        assert list(tmp_path.iterdir()) == [], change
        change += 1
    assert change > 5


def test_scratch_that_another_process_took_for_abandoned_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = []

    def take_the_first(file):
        if not taken:
            taken.append(Path(file.name).parent)
            shutil.rmtree(taken[0])
        return try_lock(file)

    monkeypatch.setattr(scratch, "try_lock", take_the_first)
    with scratch_folder() as folder:
        assert folder.is_dir() and folder.parent != taken[0]
    assert list(tmp_path.iterdir()) == []


def test_processes_that_save_at_once_take_turns(tmp_path, caplog):
    """The second one waits for the first, and nothing is lost."""
    make(tmp_path / "model")
    started, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with atomic_folder(tmp_path / "model") as staging:
            os.write(started[1], b"x")
            os.read(go_on[0], 1)
            (staging / "config.json").write_text("of the child")
        os._exit(0)
    os.read(started[0], 1)
    threading.Timer(0.3, os.write, (go_on[1], b"x")).start()
    save(tmp_path / "model", "new")
    os.waitpid(child, 0)
    assert "Another process saves to" in caplog.text
    assert (tmp_path / "model" / "config.json").read_text() == "new"
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
