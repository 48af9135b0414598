"""Other people's annotations to preference pairs: rankings (HPDv2, HPDv3, ImageRewardDB) and unpaired likes and dislikes."""

from inpo.data.importing.job import ImportConfig, import_pairs
from inpo.data.importing.report import ImportReport

__all__ = ["ImportConfig", "ImportReport", "import_pairs"]
