-- The journal of one station: what was asked (job, image), which boards were met (unit), every run of the recipe on a
-- board (attempt) and every finished step of it (step). Text columns called *_json hold JSON; times are ISO 8601, UTC.

PRAGMA application_id = 0x69737064; -- "ispd"

-- Canonical bytes of an image: for each segment its address and length (8 bytes each, big endian) and its data.
CREATE TABLE image (
    sha256 TEXT PRIMARY KEY CHECK (length(sha256) = 64),
    data   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE job (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    state         TEXT NOT NULL
                  CHECK (state IN ('queued', 'running', 'paused', 'cancelling', 'done', 'empty', 'cancelled')),
    created       TEXT NOT NULL,
    finished      TEXT,
    slots_json    TEXT NOT NULL CHECK (json_valid(slots_json)),
    count         INTEGER CHECK (count > 0),
    part          TEXT,
    bootloader    TEXT,
    passed        INTEGER NOT NULL CHECK (passed >= 0),
    failed        INTEGER NOT NULL CHECK (failed >= 0),
    image_sha256  TEXT NOT NULL,
    sources_json  TEXT NOT NULL CHECK (json_valid(sources_json)),
    warnings_json TEXT NOT NULL CHECK (json_valid(warnings_json)),
    seen_json     TEXT NOT NULL CHECK (json_valid(seen_json)),
    recipe_json   TEXT NOT NULL CHECK (json_valid(recipe_json)),
    flash         TEXT NOT NULL REFERENCES image (sha256),
    eeprom        TEXT REFERENCES image (sha256)
) STRICT;

CREATE TABLE unit (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    job               INTEGER NOT NULL REFERENCES job (id),
    slot              TEXT NOT NULL CHECK (slot <> ''),
    started           TEXT NOT NULL,
    finished          TEXT,
    verdict           TEXT CHECK (verdict IN ('passed', 'failed', 'interrupted', 'cancelled', 'needs-rescue')),
    failure_json      TEXT CHECK (failure_json IS NULL OR json_valid(failure_json)),
    part              TEXT,
    signature         TEXT,
    sck_hz            INTEGER CHECK (sck_hz > 0),
    image_sha256      TEXT NOT NULL,
    sources_json      TEXT NOT NULL CHECK (json_valid(sources_json)),
    fuses_before_json TEXT NOT NULL CHECK (json_valid(fuses_before_json)),
    fuses_after_json  TEXT NOT NULL CHECK (json_valid(fuses_after_json)),
    lock_before       INTEGER CHECK (lock_before BETWEEN 0 AND 255),
    lock              INTEGER CHECK (lock BETWEEN 0 AND 255),
    warnings_json     TEXT NOT NULL CHECK (json_valid(warnings_json)),
    UNIQUE (id, slot),
    CHECK ((verdict IS NULL) = (finished IS NULL)),
    CHECK (verdict <> 'passed' OR failure_json IS NULL)
) STRICT;

CREATE INDEX unit_by_job ON unit (job, slot, id);

CREATE TABLE attempt (
    unit         INTEGER NOT NULL,
    number       INTEGER NOT NULL CHECK (number > 0),
    slot         TEXT NOT NULL,
    started      TEXT NOT NULL,
    finished     TEXT,
    verdict      TEXT CHECK (verdict IN ('passed', 'failed', 'interrupted', 'cancelled', 'needs-rescue')),
    failure_json TEXT CHECK (failure_json IS NULL OR json_valid(failure_json)),
    PRIMARY KEY (unit, number),
    FOREIGN KEY (unit, slot) REFERENCES unit (id, slot),
    CHECK ((verdict IS NULL) = (finished IS NULL)),
    CHECK (verdict <> 'passed' OR failure_json IS NULL)
) STRICT, WITHOUT ROWID;

-- A slot has one socket: it can hold one unfinished board.
CREATE UNIQUE INDEX attempt_open ON attempt (slot) WHERE verdict IS NULL;

CREATE TABLE step (
    unit     INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 0),
    name     TEXT NOT NULL,
    started  TEXT NOT NULL,
    seconds  REAL NOT NULL CHECK (seconds >= 0),
    bytes    INTEGER NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (unit, attempt, position),
    FOREIGN KEY (unit, attempt) REFERENCES attempt (unit, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_is_final BEFORE UPDATE ON attempt WHEN OLD.verdict IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'an attempt that has its verdict never changes');
END;

CREATE TRIGGER step_of_open_attempt BEFORE INSERT ON step
WHEN (SELECT verdict FROM attempt WHERE unit = NEW.unit AND number = NEW.attempt) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'an attempt that has its verdict gets no further step');
END;

CREATE TRIGGER unit_is_final BEFORE UPDATE ON unit
WHEN OLD.verdict IS NOT NULL AND NOT (OLD.verdict = 'interrupted' AND NEW.verdict IS NULL)
BEGIN
    SELECT RAISE(ABORT, 'a unit that has its verdict never changes');
END;

CREATE TRIGGER unit_is_kept BEFORE DELETE ON unit
BEGIN
    SELECT RAISE(ABORT, 'units are never deleted');
END;
