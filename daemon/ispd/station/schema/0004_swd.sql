-- What a chip told of itself besides its signature: in words, and its serial number in hexadecimal, where it has one.

ALTER TABLE unit ADD COLUMN chip TEXT NOT NULL DEFAULT '';
ALTER TABLE unit ADD COLUMN unique_id TEXT;
