"""Pictures and reports from predictions and logs.

Import the module you need: nothing here is loaded before it is used.
"""
