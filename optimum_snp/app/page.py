"""The page of the app, in Gradio."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configuration import LAYOUTS, METHODS
from ..families import short_names
from ..packages import check_packages
from ..pruner import SNPPruner
from .work import prune_and_compare


if TYPE_CHECKING:
    import gradio

_HEAD = """# Prune a Vision Transformer

Name a model, give pictures like those it will see, and say how much of its FLOPs may remain. Nothing is trained."""


def build_page(*, model: str = "deit-small", folders: bool = True) -> "gradio.Blocks":
    """The app; `.launch()` starts it.

    Args:
        model (`str`, *optional*, defaults to `"deit-small"`):
            What stands in the field at the start.
        folders (`bool`, *optional*, defaults to `True`):
            Whether visitors may name folders of the machine that the app runs on; not in public.

    Raises:
        ImportError: If Gradio or matplotlib is missing; the message says how to get them.
    """
    check_packages("app")
    import gradio as gr

    def prune(
        name: str, files: list[str] | None, folder: str, labelled: bool, percent: float, method: str, layout: str,
        progress: Any = gr.Progress(),  # noqa: B008, which is how Gradio finds it
    ) -> tuple:  # fmt: skip
        said = iter(range(1, 100))
        images: Any = Path(folder) if folders and folder else files
        try:
            if not folders and Path(name).exists():
                raise ValueError(f"{name} is a folder of this machine. Name a model of the Hub.")
            found = prune_and_compare(
                name, images, percent / 100, method=method, layout=layout, labelled=labelled and bool(folder),
                tell=lambda text: progress(next(said) / 6, desc=text),
            )  # fmt: skip
        except (ImportError, OSError, TypeError, ValueError) as error:
            raise gr.Error(str(error), duration=None) from error
        return (
            found.comparison,
            found.plan,
            found.pictures,
            gr.DownloadButton(value=found.archive, visible=True),
            (found.folder),
        )

    def push(folder: str, repo_id: str, token: str, private: bool) -> str:
        if not folder:
            raise gr.Error("There is no pruned model yet.")
        try:
            url = SNPPruner.from_pretrained(folder).push_to_hub(repo_id, token=token or None, private=private)
        except (OSError, TypeError, ValueError) as error:
            raise gr.Error(str(error), duration=None) from error
        return f"Pushed: {url}"

    with gr.Blocks(title="optimum-snp") as page:
        gr.Markdown(_HEAD)
        where = gr.State("")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                name = gr.Dropdown(
                    sorted(short_names()), value=model, allow_custom_value=True, label="Model",
                    info="a short name, an id of the Hub" + ", or a folder" * folders,
                )  # fmt: skip
                files = gr.File(file_count="multiple", file_types=["image"], label="Pictures", height=180)
                folder = gr.Textbox(label="or a folder of pictures", visible=folders, elem_id="folder")
                labelled = gr.Checkbox(label="its subfolders are the classes: tell the accuracy", visible=folders)
                share = gr.Slider(20, 95, value=50, step=5, label="FLOPs that may remain, in per cent")
                with gr.Accordion("More", open=False):
                    method = gr.Dropdown(list(METHODS), value="projection", label="Method")
                    layout = gr.Dropdown(
                        list(LAYOUTS),
                        value="snp",
                        label="Layout",
                        info="native: without remote code, one size for all",
                    )
                start = gr.Button("Prune", variant="primary", elem_id="prune")
            with gr.Column(scale=2, min_width=320):
                table = gr.Markdown(elem_id="comparison")
                pictures = gr.Gallery(label="Attention before and after, and what was kept", columns=1, height="auto")
                with gr.Accordion("Plan", open=False):
                    plan = gr.Code(language=None, show_label=False)
                download = gr.DownloadButton("Download the model", visible=False)
                with gr.Accordion("Push to the Hub", open=False):
                    repo_id = gr.Textbox(label="Repository", placeholder="me/deit-small-snp")
                    token = gr.Textbox(label="Token that may write", type="password")
                    private = gr.Checkbox(label="private", value=True)
                    pushed = gr.Markdown()
                    gr.Button("Push").click(push, [where, repo_id, token, private], pushed)
        inputs = [name, files, folder, labelled, share, method, layout]
        start.click(prune, inputs, [table, plan, pictures, download, where], api_name="prune")
    return page
