"""Finding parts by name and composing them: entry points, ``register()``, options, validation.

No caller names a part's class: a URL's scheme, a codec's name or a verb picks it here. A part is validated when it is
composed, not at its first use.
"""

from mqcore.registry._compose import (
    PluginReport,
    check,
    codec_of_tag,
    create_authenticator,
    create_authorizer,
    create_coordinator,
    create_filter,
    create_gateway,
    create_offset_store,
    create_storage,
    create_transport,
    find_codec,
    list_plugins,
    validate_capabilities,
)
from mqcore.registry._entry_points import GROUPS, Installed, check_known, find, installed, register, unregister
from mqcore.registry._option_text import format_value
from mqcore.registry._options import (
    OptionField,
    Source,
    canonical_keys,
    merge_options,
    option_fields,
    structure_options,
)

__all__ = [
    "GROUPS",
    "Installed",
    "OptionField",
    "PluginReport",
    "Source",
    "canonical_keys",
    "check",
    "check_known",
    "codec_of_tag",
    "create_authenticator",
    "create_authorizer",
    "create_coordinator",
    "create_filter",
    "create_gateway",
    "create_offset_store",
    "create_storage",
    "create_transport",
    "find",
    "find_codec",
    "format_value",
    "installed",
    "list_plugins",
    "merge_options",
    "option_fields",
    "register",
    "structure_options",
    "unregister",
    "validate_capabilities",
]
