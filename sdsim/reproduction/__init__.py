"""The MoESD paper (arXiv 2505.19645) reproduced: its model fitted, its tables and figures beside this project's."""
