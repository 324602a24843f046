-- Which projects see what belongs to the system: all of them, or those whose ids stand here, each
-- between commas. What the document says is repeated where lists can ask for it.

ALTER TABLE destinations ADD COLUMN visible_to TEXT NOT NULL DEFAULT '';
ALTER TABLE policies ADD COLUMN visible_to TEXT NOT NULL DEFAULT '';
