-- The ledger, for SQLite and PostgreSQL alike ({serial} and {int8} differ).

-- how far each journal has been taken over; moves in the same transaction as the rows it stands for
CREATE TABLE IF NOT EXISTS positions (
    source TEXT PRIMARY KEY, segment {int8} NOT NULL, place {int8} NOT NULL);

-- what was pruned: nothing of that table before this moment (Unix milliseconds) is complete any more
CREATE TABLE IF NOT EXISTS pruned (name TEXT PRIMARY KEY, before {int8} NOT NULL);

CREATE TABLE IF NOT EXISTS groups (
    id {int8} PRIMARY KEY, principal TEXT NOT NULL, project TEXT NOT NULL, tags TEXT NOT NULL, task TEXT NOT NULL,
    route TEXT NOT NULL, model_asked TEXT NOT NULL, model TEXT NOT NULL, upstream TEXT NOT NULL, key TEXT NOT NULL,
    version TEXT NOT NULL);

CREATE TABLE IF NOT EXISTS calls (
    id {serial}, at {int8} NOT NULL, grp {int8} NOT NULL, request TEXT NOT NULL,
    outcome SMALLINT NOT NULL, status SMALLINT NOT NULL, flags SMALLINT NOT NULL,
    ms {int8} NOT NULL, first_ms {int8} NOT NULL, attempts SMALLINT NOT NULL,
    input {int8} NOT NULL, output {int8} NOT NULL, cached_input {int8} NOT NULL, cache_write {int8} NOT NULL,
    reasoning {int8} NOT NULL, rest TEXT, cost {int8} NOT NULL, saved {int8} NOT NULL);
CREATE INDEX IF NOT EXISTS calls_at ON calls (at);

-- roll-ups, kept up to date by every transaction; slot: hours (days) since 1970 in UTC
CREATE TABLE IF NOT EXISTS hours (
    slot {int8} NOT NULL, grp {int8} NOT NULL, {sums}, PRIMARY KEY (slot, grp)) {without_rowid};
CREATE TABLE IF NOT EXISTS days (
    slot {int8} NOT NULL, grp {int8} NOT NULL, {sums}, PRIMARY KEY (slot, grp)) {without_rowid};
-- the hours again, by one dimension each (its place in PARTS): a month hour by hour would be as many rows as there are
-- hours times groups
CREATE TABLE IF NOT EXISTS parts (
    dim SMALLINT NOT NULL, slot {int8} NOT NULL, value TEXT NOT NULL, {sums},
    PRIMARY KEY (dim, slot, value)) {without_rowid};
-- calls a day and group by cost bucket
CREATE TABLE IF NOT EXISTS costs (
    slot {int8} NOT NULL, grp {int8} NOT NULL, bucket SMALLINT NOT NULL, calls {int8} NOT NULL,
    PRIMARY KEY (slot, grp, bucket)) {without_rowid};
-- the same by one dimension each (its place in SPREADS)
CREATE TABLE IF NOT EXISTS spreads (
    dim SMALLINT NOT NULL, slot {int8} NOT NULL, value TEXT NOT NULL, bucket SMALLINT NOT NULL, calls {int8} NOT NULL,
    PRIMARY KEY (dim, slot, value, bucket)) {without_rowid};
