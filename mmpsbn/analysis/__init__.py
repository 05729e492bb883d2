"""Floor 5: pictures and reports from predictions, checkpoints and logs.

Import the module you need: nothing here is loaded before it is used.
"""
