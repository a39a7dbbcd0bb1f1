from .api import adjectives as adjectives
from .api import invert as invert
from .api import iter_invert as iter_invert
from .api import nouns as nouns
from .api import open_image as open_image
from .editing.prompt_to_prompt import Edited as Edited
from .editing.prompt_to_prompt import edit as edit
from .editing.prompt_to_prompt import iter_edit as iter_edit
from .editing.prompt_to_prompt import reconstruct as reconstruct
from .editing.settings import EditSettings as EditSettings
from .errors import InputError as InputError
from .grounding import find_priors as find_priors
from .method.policies import Method as Method
from .method.policies import load_method as load_method
from .method.progress import Progress as Progress
from .networks.backbone import Backbone as Backbone
from .networks.loading import load_backbone as load_backbone
from .types import Edit as Edit
from .types import EditSample as EditSample
from .types import Inversion as Inversion
from .types import Noun as Noun

__version__: str
