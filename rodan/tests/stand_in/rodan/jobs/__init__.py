"""Where job packages are. The real package lies in the product's folder, as if it were copied
here.
"""

import importlib
import pathlib

__path__.append(str(pathlib.Path(__file__).parents[4]))


def module_loader(name, callback=lambda module: None):
    """Imports a module for a package; what fails to import stops all of Rodan."""
    callback(importlib.import_module(name))
