-- The devices and what they may show. Text compares byte by byte (BINARY, SQLite's default): the same on every store.
CREATE TABLE device (
    id            TEXT    NOT NULL PRIMARY KEY,
    description   TEXT    NOT NULL,
    labels        TEXT    NOT NULL, -- a JSON object of strings
    enabled       INTEGER NOT NULL,
    min_mode      TEXT    NOT NULL,
    connections   INTEGER,          -- none: limits.connections_per_device
    registered_by TEXT,             -- the trust group, if it registered itself
    created       INTEGER NOT NULL, -- seconds since 1970, as all times here
    changed       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX device_registered_by ON device (registered_by) WHERE registered_by IS NOT NULL;

CREATE TABLE credential (
    device      TEXT    NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    proof       TEXT    NOT NULL CHECK (proof IN ('vouched', 'pinned', 'token')),
    trust       TEXT,    -- vouched: the trust group,
    field       TEXT,    --          and the field that named the device
    pin         TEXT CHECK (pin IN ('certificate', 'key')),
    print       BLOB CHECK (length(print) = 32), -- of the pin, or the token's keyed hash
    valid_from  INTEGER NOT NULL,
    valid_until INTEGER, -- none: no end
    PRIMARY KEY (device, number)
) STRICT, WITHOUT ROWID;

-- What is pinned names one device.
CREATE UNIQUE INDEX credential_pinned ON credential (pin, print) WHERE proof = 'pinned';

-- Written often and in batches, so apart from what owners change.
CREATE TABLE seen (
    device      TEXT    NOT NULL PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    at          INTEGER NOT NULL,
    address     TEXT    NOT NULL,
    mode        TEXT    NOT NULL,
    certificate BLOB
) STRICT, WITHOUT ROWID;

-- What changed, in the order of the commits. No device: more than can be told one by one.
-- AUTOINCREMENT: a number does not come back when its row is pruned.
CREATE TABLE change (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    device TEXT
) STRICT;

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
