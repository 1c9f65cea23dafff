-- What a step found out, in words: which SCK a board followed, what its fuse bytes read where bits do not exist.

ALTER TABLE step ADD COLUMN note TEXT NOT NULL DEFAULT '';

-- The SCK at which boards of one kind are worked on through one slot's wires. It is kept apart from the units, since not
-- every unit looks for it: a job may fix SCK, or move too little to be worth raising it. clock is the system clock that the
-- fuses select, in words: another clock is another row. boards counts those that passed since the SCK was looked for from
-- the top.

CREATE TABLE sck (
    slot       TEXT NOT NULL CHECK (slot <> ''),
    programmer TEXT NOT NULL,
    part       TEXT NOT NULL,
    clock      TEXT NOT NULL,
    sck_hz     INTEGER NOT NULL CHECK (sck_hz > 0),
    boards     INTEGER NOT NULL CHECK (boards > 0),
    PRIMARY KEY (slot, programmer, part, clock)
) STRICT, WITHOUT ROWID;
