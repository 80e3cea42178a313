"""What posthog-js loads before flags, and beside them, from a service that has nothing but flags.

Invariant: nothing here depends on what any backend says, and no project is looked up; a token goes into a script only
if it cannot mean anything in there.
"""

import re
from typing import Final

import msgspec

_TOKEN: Final = re.compile("[A-Za-z0-9_-]{1,256}")

CONFIG: Final = msgspec.json.encode(
    {
        "hasFeatureFlags": True,
        "supportedCompression": ["gzip", "gzip-js"],
        "sessionRecording": False,
        "capturePerformance": False,
        "heatmaps": False,
        "autocaptureExceptions": False,
        "autocapture_opt_out": True,
        "captureDeadClicks": False,
        "isAuthenticated": False,
        "toolbarParams": {},
        "elementsChainAsString": True,
        "defaultIdentifiedOnly": True,
        "analytics": {"endpoint": "/i/v0/e/"},
    }
)
"""Without a member for surveys: posthog-js takes any, even false, for a reason to load the script that shows them."""

_SCRIPT: Final = (
    b"(window._POSTHOG_REMOTE_CONFIG = window._POSTHOG_REMOTE_CONFIG || {})"
    b'["%s"] = {"config": ' + CONFIG.replace(b"%", b"%%") + b', "siteApps": []};\n'
)

NOTHING: Final = {
    "/api/early_access_features": b'{"earlyAccessFeatures":[]}',
    "/api/surveys": b'{"surveys":[]}',
    "/api/web_experiments": b'{"experiments":[]}',
}
"""What is said to questions about what a service of flags alone does not have, by path."""


def is_token(text: str) -> bool:
    """Whether a project could have this token."""
    return _TOKEN.fullmatch(text) is not None


def config_script(token: str) -> bytes:
    """A script that leaves the remote config of this token, and of no other one, where posthog-js looks for it."""
    return _SCRIPT % token.encode()
