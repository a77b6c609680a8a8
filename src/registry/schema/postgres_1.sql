-- The devices and what they may show. Names compare byte by byte (COLLATE "C"): the same on every store.
CREATE TABLE device (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    description   TEXT    NOT NULL,
    labels        TEXT    NOT NULL, -- a JSON object of strings
    enabled       BOOLEAN NOT NULL,
    min_mode      TEXT    NOT NULL,
    connections   BIGINT,           -- none: limits.connections_per_device
    registered_by TEXT COLLATE "C", -- the trust group, if it registered itself
    created       BIGINT  NOT NULL, -- seconds since 1970, as all times here
    changed       BIGINT  NOT NULL
);

CREATE INDEX device_registered_by ON device (registered_by) WHERE registered_by IS NOT NULL;

CREATE TABLE credential (
    device      TEXT COLLATE "C" NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    number      BIGINT  NOT NULL,
    proof       TEXT    NOT NULL CHECK (proof IN ('vouched', 'pinned', 'token')),
    trust       TEXT COLLATE "C", -- vouched: the trust group,
    field       TEXT,             --          and the field that named the device
    pin         TEXT CHECK (pin IN ('certificate', 'key')),
    print       BYTEA CHECK (length(print) = 32), -- of the pin, or the token's keyed hash
    valid_from  BIGINT  NOT NULL,
    valid_until BIGINT, -- none: no end
    PRIMARY KEY (device, number)
);

-- What is pinned names one device.
CREATE UNIQUE INDEX credential_pinned ON credential (pin, print) WHERE proof = 'pinned';

-- Written often and in batches, so apart from what owners change.
CREATE TABLE seen (
    device      TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    at          BIGINT  NOT NULL,
    address     TEXT    NOT NULL,
    mode        TEXT    NOT NULL,
    certificate BYTEA
);

-- What changed, in the order of the commits: a number is taken under a lock that lasts until the commit, or a reader
-- could pass over one that is committed later. No device: more than can be told one by one.
CREATE TABLE change (
    seq    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device TEXT COLLATE "C"
);

CREATE TABLE meta (
    key   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);
