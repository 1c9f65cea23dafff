"""The API: declared once in ``methods``, carried out in ``handlers``, spoken by every surface (floor above the station).

``methods``, ``failures`` and ``declare`` know the model and the error codes only, so that clients can import them.
"""
