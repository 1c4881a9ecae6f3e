"""The version, read by the build and by ``autolr.__version__``, and those of what a result depends on."""

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    import numpy as np
    import pandas as pd
    import scipy
    import torch

    return {
        "autolr": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "scipy": scipy.__version__,
    }
