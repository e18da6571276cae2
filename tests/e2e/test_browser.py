"""Airflow and MLflow as a person uses them: the form, the links of a task, two runs compared.

`ELASTIC_CTR_PICTURES=docs/images` writes the pictures of the documentation, of more and larger days.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from browser import Browser, chromium
from worlds import SMALL, make_world

from pipelines.demo.watch import DAG_ID
from pipelines.services import control
from pipelines.services.environment import FOLDERS_VARIABLE, USER
from pipelines.tracking.pages import start_pages

pytestmark = [
    pytest.mark.sweep,  # two days through Airflow take longer than a minute
    pytest.mark.process,
    pytest.mark.airflow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium: `apt-get install chromium`"),
]
PICTURES = os.environ.get("ELASTIC_CTR_PICTURES")
DAYS = [f"2026-01-0{day}" for day in range(1, 6 if PICTURES else 3)]
SIMULATOR = {**SMALL["simulator"], "impressions_per_day": 30_000 if PICTURES else 2000}
FIRST_RATE, RATE = "0.02", "0.01"
TRAIN_S = 150


@dataclass
class Person:
    """A person at a browser, who runs days and keeps the addresses of their runs in Airflow."""

    browser: Browser
    services: control.Services
    form: dict
    runs: list[str] = field(default_factory=list)

    def picture(self, name):
        if PICTURES:
            time.sleep(1.5)  # parts fade in
            self.browser.picture(Path(PICTURES) / f"{name}.png")

    def log_in(self):
        self.browser.open(self.services.airflow_url)
        self.browser.fill("[name=username]", USER)
        self.browser.fill("[name=password]", self.services.password)
        self.browser.click("Sign in", "button")
        self.browser.wait("Dags")

    def trigger(self, dag, sections, picture=None):
        """Fill in the form of a DAG, section by section, and return the address of the run."""
        browser = self.browser
        browser.open(f"{self.services.airflow_url}/dags/{dag}")
        browser.click("Trigger", "button")
        for section, values in sections.items():
            browser.click(section, "button")
            for name, value in values.items():
                browser.fill(f"[name='element_{name}']", value)
        if picture:
            self.picture(picture)
        browser.click("Trigger", "[role=dialog] button")
        browser.until("location.pathname.includes('/runs/')", "page of the new run")
        return str(browser.run("location.href"))

    def train(self, day, rate):
        """Trigger a run of a day with another learning rate."""
        what = {**self.form, "date": day}
        how = {"model.deep.learning_rate": rate}
        return self.trigger(
            DAG_ID, {"What to train": what, "How to train": how}, picture="airflow-form"
        )

    def link(self, run, task, name):
        """Open a task's details when it is done and return the address of one of its links."""
        self.browser.open(f"{run}/tasks/{task}/details")
        self.browser.wait("Success", seconds=TRAIN_S)
        # Airflow's page loads a task's links once.
        self.browser.open(f"{run}/tasks/{task}/details")
        self.browser.wait(name)
        find = f"[...document.querySelectorAll('a')].find(a => a.innerText.trim() == '{name}')"
        return str(self.browser.run(f"{find}.href"))

    def page(self, view):
        """Return the address of a saved view in MLflow, as `up` and `demo` print it."""
        lines = start_pages(self.services.mlflow_url)
        return next(line.split()[0] for line in lines if view in line)


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    folder = tmp_path_factory.mktemp("person")
    world = make_world(folder, {"simulator": SIMULATOR})
    (folder / "browser").mkdir()
    form = {"config": str(world.config), "workspace": str(world.workspace)}
    with pytest.MonkeyPatch.context() as patch, Browser(folder / "browser") as browser:
        patch.setenv(FOLDERS_VARIABLE, str(folder))
        with control.running(folder / "run", keep=False) as services:
            yield Person(browser, services, form)


def test_a_setting_is_changed_in_the_form_and_two_runs_are_compared_in_mlflow(person):
    """Issue 19: MLflow opened as an observatory of agents, with no metric in its table."""
    browser = person.browser
    # 1. Airflow: a day with a setting of the form, others with another value.
    person.log_in()
    person.runs += [person.train(day, RATE if day != DAYS[0] else FIRST_RATE) for day in DAYS]
    # 2. From a task to its run in MLflow.
    address = person.link(person.runs[0], "train", "MLflow run")
    person.picture("airflow-links")
    browser.open(address)
    browser.wait("train", "Parent run", DAYS[0], "learning_rate", FIRST_RATE)
    assert "AI Gateway" not in browser.text()  # of the view for language models
    # 3. Two days compared, from the address that `up` and `demo` print.
    for run in person.runs[1:]:
        person.link(run, "monitor" if PICTURES else "train", "MLflow run")
    browser.open(person.page("Days compared"))
    browser.wait("Days compared", "train/auc", *DAYS)
    assert "AI Gateway" not in browser.text()
    person.picture("mlflow-runs")
    compare(browser)


def compare(browser):
    """Compare the first and the last day of MLflow's table: only what differs is shown."""
    for day in (DAYS[0], DAYS[-1]):
        browser.click(selector=f"[row-id='{row_of(browser, day)}'] input[type=checkbox]")
    browser.click("Compare", "button")
    browser.wait("Parameters", "model.dim", *(DAYS[0], DAYS[-1]))
    browser.click(selector="button[role=switch]")
    browser.until("!document.body.innerText.includes('model.dim')", "shorter table")
    browser.wait("model.deep.learning_rate", FIRST_RATE, RATE)


@pytest.mark.skipif(not PICTURES, reason="ELASTIC_CTR_PICTURES names no folder")
def test_the_pictures_of_the_documentation(person):
    """After the days of the test before."""
    browser = person.browser
    # 1. Airflow: the graph, and a search for a compression plan.
    browser.open(person.runs[-1])
    browser.click(selector="[aria-label^='Show Graph']")
    browser.click(selector="[aria-label^='Collapse Details']")
    browser.click(selector="[aria-label^='Expand all']")
    browser.wait("validate_model")
    browser.click(selector="[aria-label^='Fit View']")
    person.picture("airflow-graph")
    sections = {"What to compress": person.form, "What to search for": {"plans": "60"}}
    run = person.trigger("compress_champion", sections, picture="airflow-compress")
    for task in ("search_plan", "promote"):
        person.link(run, task, "MLflow run")
    # 2. MLflow, in a browser where *Model training* was chosen: days, plans, lines over days.
    browser.open(person.services.mlflow_url)
    browser.click("Model training")
    browser.open(person.page("Days compared"))
    browser.wait("train/auc", *DAYS)
    compare(browser)
    person.picture("mlflow-compare")
    browser.open(person.page("Compression plans compared"))
    browser.wait("search-compression", "compress/bytes_after")
    person.picture("mlflow-plans")
    browser.open(person.page("Days compared").partition("&")[0])
    browser.click("simulated: all days", "a")
    browser.click("Model metrics")
    browser.wait("bytes_exported")
    person.picture("mlflow-days")


def row_of(browser, name):
    """Return the row of a run of this name in MLflow's table."""
    find = f"[...document.querySelectorAll('[row-id]')].find(e => e.innerText.includes('{name}'))"
    return browser.run(f"{find}.getAttribute('row-id')")
