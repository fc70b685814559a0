"""What is read as a checkpoint: tensors and plain data of an SVIModule, and nothing that could run code."""

import io
import os
import pickle
import shutil

import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, quiet_trainer, small

import pyro_omics as po

load_checkpoint = po.SVIModule.load_from_checkpoint


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(), batch_size=16)


@pytest.fixture(scope="module")
def files(dm, tmp_path_factory):
    """A folder with `a.ckpt` and the saved folder `saved`."""
    folder, svi, trainer = tmp_path_factory.mktemp("files"), po.SVIModule(small(dm)), quiet_trainer(1)
    trainer.fit(svi, dm)
    trainer.save_checkpoint(folder / "a.ckpt", weights_only=False)
    svi.save(folder / "saved")
    return folder


def test_each_loader_names_the_other(files, dm):
    with pytest.raises(FileNotFoundError, match=r"is a file: .*SVIModule\.load_from_checkpoint\('.*a\.ckpt'\)"):
        po.load(files / "a.ckpt")
    for read in (load_checkpoint, lambda path: quiet_trainer(2).fit(po.SVIModule(small(dm)), dm, ckpt_path=path)):
        with pytest.raises(ValueError, match=r"is a folder that svi\.save wrote: read it with load\('.*saved'\)"):
            read(files / "saved")
    weights = files / "saved" / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match=r"is a file in it: pass the folder, load\('.*saved'\)"):
        po.load(weights)
    with pytest.raises(ValueError, match=r"is part of a saved fit: load\('.*saved'\)"):
        load_checkpoint(weights)


def test_a_folder_around_them_names_what_is_in_it(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds saved folders: .*load\('.*saved'\)"):
        po.load(files)
    shutil.copy(files / "a.ckpt", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds checkpoints: .*load_from_checkpoint\('.*a\.ckpt'\)"):
        po.load(tmp_path)
    with pytest.raises(ValueError, match=r"is a folder: pass the \.ckpt file"):
        load_checkpoint(tmp_path)
    for read in (po.load, load_checkpoint):
        with pytest.raises(FileNotFoundError, match="nowhere, which does not exist"):
            read(tmp_path / "nowhere")


OTHERS = {
    "cut off": lambda whole: whole[: len(whole) // 2],
    "nearly whole": lambda whole: whole[:-10],
    "empty": lambda whole: b"",
    "text": lambda whole: b"hello",
    "old pickle": lambda whole: pickle.dumps({"state_dict": {}}),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_checkpoint_is_refused(files, dm, tmp_path, name):
    (path := tmp_path / "b.ckpt").write_bytes(OTHERS[name]((files / "a.ckpt").read_bytes()))
    for read in (load_checkpoint, lambda path: quiet_trainer(2).fit(po.SVIModule(small(dm)), dm, ckpt_path=path)):
        with pytest.raises(ValueError, match=r"b\.ckpt cannot be read as a checkpoint: .*; pass a whole \.ckpt file"):
            read(path)


class Plain(pl.LightningModule):
    """A module of another project."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)


@pytest.mark.parametrize("content", ["list", "weights", "another project"])
def test_a_checkpoint_of_something_else_is_refused(dm, tmp_path, content):
    path = tmp_path / "b.ckpt"
    if content == "another project":
        trainer = quiet_trainer(1)
        trainer.strategy.connect(Plain())
        trainer.save_checkpoint(path, weights_only=False)
    else:
        torch.save([1] if content == "list" else small(dm).state_dict(), path)
    for read in (load_checkpoint, lambda path: quiet_trainer(2).fit(po.SVIModule(small(dm)), dm, ckpt_path=path)):
        with pytest.raises(ValueError, match=r"must be a checkpoint of an SVIModule.*; got .*b\.ckpt"):
            read(path)


class Evil:
    """An object that makes a folder as it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", ["whole", "hidden", "old pickle"])
def test_code_in_a_checkpoint_does_not_run(files, dm, tmp_path, place):
    path, evil = tmp_path / "b.ckpt", Evil(str(tmp_path / "was_here"))
    if place == "old pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        content = torch.load(files / "a.ckpt", weights_only=True)
        torch.save(evil if place == "whole" else {**content, "extra": evil}, path)
    readers = [
        load_checkpoint,
        lambda path: load_checkpoint(io.BytesIO(path.read_bytes())),
        po.load,
        lambda path: quiet_trainer(2).fit(po.SVIModule(small(dm)), dm, ckpt_path=path),
        lambda path: quiet_trainer(2).predict(po.SVIModule(small(dm)), dm, ckpt_path=path),
    ]
    for read in readers:
        with pytest.raises((ValueError, FileNotFoundError), match=r"cannot be read as a checkpoint|is a file"):
            read(path)
    assert not (tmp_path / "was_here").exists()
    if place != "old pickle":
        with pytest.raises(ValueError, match=r"mkdir.*could run code.*weights_only=False"):
            load_checkpoint(path)


def test_our_checkpoints_are_read_without_a_message(files, dm, caplog, recwarn):
    load_checkpoint(files / "a.ckpt")
    quiet_trainer(2).fit(po.SVIModule(small(dm)), dm, ckpt_path=files / "a.ckpt")
    assert "weights_only" not in caplog.text
    assert not [one for one in recwarn if "weights_only" in str(one.message)]


@pytest.mark.parametrize("config", ["[]", "{}", '{"model": {}}'])
def test_a_configuration_of_something_else_is_refused(files, tmp_path, config):
    shutil.copytree(files / "saved", folder := tmp_path / "saved")
    (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config\.json is .* of a saved fit: save the fit again"):
        po.load(folder)
