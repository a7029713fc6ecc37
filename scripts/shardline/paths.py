"""The public contract's paths, all relative to the project's root (DESIGN section 3)."""

from __future__ import annotations

RESULTS = "results"


def raw(dataset: str) -> str:
    """Folder of a dataset's raw files."""
    return f"{RESULTS}/raw/{dataset}"


def lock(name: str) -> str:
    """Lock of a dataset, or of a model when ``name`` starts with ``models/``."""
    return f"{RESULTS}/raw/{name}.lock.json"


def model_folder(name: str) -> str:
    """Folder of a base model's files."""
    return f"{RESULTS}/raw/models/{name}"


def model_lock(name: str) -> str:
    """Lock of a base model."""
    return lock(f"models/{name}")


def converted(dataset: str) -> str:
    """Manifest of a converted dataset."""
    return f"{RESULTS}/converted/{dataset}/manifest.json"


def classifier(scores: str) -> str:
    """Manifest of the trained classifier behind scores; its folder has the same name."""
    return f"{RESULTS}/classifiers/{scores}.json"


def image_scores(dataset: str, scores: str) -> str:
    """Manifest of a dataset's image scores."""
    return f"{RESULTS}/scores/{dataset}/{scores}/manifest.json"


def decisions(dataset: str, variant: str) -> str:
    """What a filter chain decided about a dataset."""
    return f"{RESULTS}/filtered/{dataset}/{variant}/decisions.json"


def filtered(dataset: str, variant: str) -> str:
    """Manifest of a filtered dataset's image shards."""
    return f"{RESULTS}/filtered/{dataset}/{variant}/manifest.json"


def filter_pictures(dataset: str, variant: str) -> str:
    """List of the pictures of a filtered dataset; their folder has the same name without ending."""
    return f"{RESULTS}/filtered/{dataset}/{variant}/pictures.json"


def tokens(dataset: str, variant: str) -> str:
    """Manifest of a dataset's token shards."""
    return f"{RESULTS}/tokens/{dataset}/{variant}/manifest.json"


def features(dataset: str, variant: str, features: str) -> str:
    """Manifest of a vision tower's outputs for a dataset's token shards."""
    return f"{RESULTS}/features/{dataset}/{variant}/{features}/manifest.json"


def plan(recipe: str, stage: str) -> str:
    """Summary of a stage's plan."""
    return f"{RESULTS}/plans/{recipe}/{stage}.json"


def validation_plan(recipe: str, stage: str) -> str:
    """Summary of the plan of what a stage's recipe holds out."""
    return f"{RESULTS}/plans/{recipe}/{stage}.validation.json"


def result(recipe: str, stage: str) -> str:
    """What a training stage made."""
    return f"{RESULTS}/checkpoints/{recipe}/{stage}/result.json"


def export(recipe: str, stage: str, kind: str) -> str:
    """Manifest of an exported model; the model's folder has the same name without ``.json``."""
    return f"{RESULTS}/models/{recipe}/{stage}/{kind}.json"


def predictions(recipe: str, model: str, benchmark: str) -> str:
    """A model's answers to a benchmark."""
    return f"{RESULTS}/evals/{recipe}/{model}/{benchmark}/predictions.jsonl"


def scores(recipe: str, model: str, benchmark: str) -> str:
    """A model's scores on a benchmark."""
    return f"{RESULTS}/evals/{recipe}/{model}/{benchmark}/scores.json"


def report(recipe: str) -> str:
    """A recipe's report page."""
    return f"{RESULTS}/reports/{recipe}/index.html"


def model_of_lock(lock_file: str) -> str:
    """The model folder that a lock, or an export's manifest, belongs to."""
    return lock_file.removesuffix(".json").removesuffix(".lock")
