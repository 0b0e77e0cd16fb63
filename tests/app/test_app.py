"""The app: what it does, and its page in a real browser."""

import shutil
import zipfile
from pathlib import Path

import pytest

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.app.work import prune_and_compare
from tests.helpers import build_source


@pytest.fixture
def model(tmp_path, image_processor):
    folder = tmp_path / "dense"
    names = {0: "0", 1: "1"}
    build_source("ViTForImageClassification", id2label=names, label2id={"0": 0, "1": 1}).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


def test_pictures_make_a_smaller_model(model, image_folder):
    files = sorted(image_folder.rglob("*.png"))
    said = []
    found = prune_and_compare(str(model), files, 0.5, tell=said.append)
    assert said == ["Loading the model", "Calibrating", "Pruning", "Measuring", "Drawing"]
    pruner = SNPPruner.from_pretrained(found.folder)
    assert pruner.pruning_plan.config == SNPConfig(target_flops=0.5)
    assert "agreement" in found.comparison and "top-1" not in found.comparison
    assert "10 images of your pictures" in found.comparison
    assert found.plan == str(pruner.pruning_plan)
    assert "attention_maps" in found.pictures[0] and all(Path(picture).is_file() for picture in found.pictures)
    assert "model.safetensors" in zipfile.ZipFile(found.archive).namelist()


@pytest.mark.slow
def test_a_folder_with_classes_tells_the_accuracy(model, image_folder):
    assert "top-1" in prune_and_compare(str(model), image_folder, 0.7, labelled=True).comparison


def test_without_pictures_there_is_nothing_to_calibrate_on(model):
    with pytest.raises(ValueError, match="Choose some pictures"):
        prune_and_compare(str(model), [], 0.5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromedriver"), reason="there is no browser to drive")
def test_the_page_in_a_browser(model, image_folder, tmp_path):
    gradio, selenium = pytest.importorskip("gradio"), pytest.importorskip("selenium")
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    from optimum_snp.app import build_page

    assert gradio is not None and selenium is not None
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--window-size=1280,1000"):
        options.add_argument(option)
    page = build_page(model=str(model))
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(tmp_path)])
    browser = webdriver.Chrome(options=options)
    try:
        browser.get(address)
        wait = WebDriverWait(browser, 240)
        wait.until(lambda it: it.find_elements(By.ID, "prune"))
        box = browser.find_element(By.CSS_SELECTOR, "input[type=file]")
        box.send_keys("\n".join(str(file) for file in sorted(image_folder.rglob("*.png"))))
        wait.until(lambda it: "9.png" in it.page_source)
        browser.find_element(By.ID, "prune").click()
        wait.until(lambda it: "agreement" in it.find_element(By.ID, "comparison").text)
        table = browser.find_element(By.ID, "comparison").text
        assert "pruned" in table and "dense" in table
        wait.until(lambda it: it.find_elements(By.CSS_SELECTOR, "img[src*='attention_maps']"))
        assert any("Download the model" in each.text for each in browser.find_elements(By.CSS_SELECTOR, "a, button"))
        browser.save_screenshot(str(tmp_path / "desktop.png"))
        browser.set_window_size(400, 900)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= browser.execute_script("return window.innerWidth") + 1  # nothing hangs over on a phone
        browser.save_screenshot(str(tmp_path / "phone.png"))
        # A mistake is told on the page.
        browser.set_window_size(1280, 1000)
        folder = browser.find_element(By.CSS_SELECTOR, "#folder textarea, #folder input")
        folder.send_keys(str(tmp_path / "nowhere"))
        browser.find_element(By.ID, "prune").click()
        wait.until(lambda it: "nowhere" in it.find_element(By.TAG_NAME, "body").text)
    finally:
        browser.quit()
        page.close()
