-- The folder in which a source must lie that was not named by a person but found or made there:
-- whoever may write in it may put a link to anywhere in the place of an image. Empty: anywhere.
ALTER TABLE trusted_sources ADD COLUMN folder TEXT NOT NULL DEFAULT '';
