"""What people and programs see: the REST API, the live stream, the page and `/metrics`.

    GET /api/v1/…  ── routes ──► Queries (the store, behind a Protocol)
    GET /api/v1/stream ────────► StreamHub ◄── publish() from the engine's thread
    GET /  ── pages ──► web/     plain ES modules; the chart library is served from its wheel

Every request passes the same three gates, outermost first: `headers.Edge` (security headers, request id, size
limit, last resort), `auth.Gate` (host, token, cross-site rule), then the application.
"""
