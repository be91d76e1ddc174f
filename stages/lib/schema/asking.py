"""What a section needs that asks a model: Generate's, Rate's and Judge's backends."""

from stages.lib.every_stage.errors import require
from stages.lib.schema.choices import Backend, JudgeBackend


def require_model(section: str, backend: Backend | JudgeBackend, model: str, endpoint: str) -> None:
    """Raise UserError where a section's backend asks a model, and it names none or has no address of it."""
    if backend.value in (Backend.huggingface.value, Backend.openai.value):
        require(bool(model), f"{section}.model", "", f"a value for backend={backend.value}")
    if backend.value == Backend.openai.value:
        require(endpoint.startswith("http"), f"{section}.endpoint", endpoint, "an http(s) address")
