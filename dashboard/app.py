"""The dashboard: navigation only. Started by `boundscope dashboard`."""

from __future__ import annotations

from boundscope.dashboard import navigation

navigation.main()
