"""Names that AWS IoT allows. AWS: IoT Core, API reference, CreateThing; UpdateThingShadow."""

import re
from typing import Final

THING_NAME: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
SHADOW_NAME: Final = re.compile(r"[a-zA-Z0-9:_-]{1,64}")
