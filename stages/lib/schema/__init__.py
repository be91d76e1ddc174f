"""The type of every value in `params.lock.yaml`: one dataclass per stage, named like its section.

DVC tracks the values key by key, so these modules are in no stage's deps; they must hold no behaviour beyond
checks that refuse values. Names of training options are those of trl, peft and transformers.
"""
