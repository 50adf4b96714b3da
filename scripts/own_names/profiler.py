"""A user's own module; it notes who imports it, and nobody but the training may."""

import imported

imported.note(__name__)
