-- Firmware over the board's own USB port: which way a job and a unit took, where, and what the tools printed.

ALTER TABLE job ADD COLUMN plan TEXT NOT NULL DEFAULT 'isp-only'
    CHECK (plan IN ('isp-only', 'merged', 'chained', 'auto', 'chain-only'));
ALTER TABLE job ADD COLUMN firmware TEXT REFERENCES image (sha256);

ALTER TABLE unit ADD COLUMN plan TEXT CHECK (plan IN ('isp-only', 'merged', 'chained', 'chain-only'));
ALTER TABLE unit ADD COLUMN target_usb TEXT;
ALTER TABLE unit ADD COLUMN application_usb TEXT;

ALTER TABLE step ADD COLUMN output TEXT NOT NULL DEFAULT '';

CREATE INDEX unit_to_rescue ON unit (id) WHERE verdict = 'needs-rescue';

-- Which USB port the boards of a slot appear on, where that was learnt: a topology path.

CREATE TABLE pairing (
    slot TEXT PRIMARY KEY CHECK (slot <> ''),
    path TEXT NOT NULL UNIQUE CHECK (path <> '')
) STRICT, WITHOUT ROWID;

-- How fast a firmware gets onto boards of one kind on one slot, by way (isp, usb): seconds that do not depend on its size,
-- and seconds per byte, of the last board that passed.

CREATE TABLE pace (
    slot    TEXT NOT NULL CHECK (slot <> ''),
    part    TEXT NOT NULL,
    way     TEXT NOT NULL CHECK (way IN ('isp', 'usb')),
    fixed_s REAL NOT NULL CHECK (fixed_s >= 0),
    byte_s  REAL NOT NULL CHECK (byte_s >= 0),
    PRIMARY KEY (slot, part, way)
) STRICT, WITHOUT ROWID;
