"""One module per DVC stage: this folder's listing is the pipeline. What stages share is in `stages.lib`."""
