package pins

import (
	"slices"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// residenceMigration lets roots be offloaded and restored, and remembers when a hot copy was verified and read.
func residenceMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_10_residence",
		Migrate: func(tx *gorm.DB) error {
			statements := postgresResidence
			if tx.Name() == "sqlite" {
				statements = sqliteResidence
			}
			return execute(tx, append(slices.Clip(statements), residence...))
		},
	}
}

// SQLite cannot change a CHECK: the table is made anew. The rows go into a table of the old name, because only inserting
// into it settles the references that dropping it has broken.
var sqliteResidence = []string{
	`PRAGMA defer_foreign_keys = ON`,
	`CREATE TABLE roots_before AS SELECT * FROM roots`,
	`DROP TABLE roots`,
	`CREATE TABLE roots (
		id          INTEGER PRIMARY KEY,
		cid         TEXT    NOT NULL UNIQUE,
		hot         TEXT    NOT NULL CHECK (hot IN ('queued','fetching','held','offloaded','restoring','gave_up','releasing')),
		account     BIGINT  NOT NULL,
		attempts    BIGINT  NOT NULL,
		wanted_ms   BIGINT  NOT NULL,
		next_ms     BIGINT  NOT NULL,
		claimed_by  TEXT    NOT NULL,
		blocks      BIGINT  NOT NULL,
		bytes       BIGINT  NOT NULL,
		reason      TEXT    NOT NULL,
		verified_ms BIGINT  NOT NULL DEFAULT 0
	)`,
	`INSERT INTO roots (id, cid, hot, account, attempts, wanted_ms, next_ms, claimed_by, blocks, bytes, reason)
		SELECT id, cid, hot, account, attempts, wanted_ms, next_ms, claimed_by, blocks, bytes, reason FROM roots_before`,
	`DROP TABLE roots_before`,
	`CREATE INDEX roots_releasing ON roots (next_ms) WHERE hot = 'releasing' AND claimed_by = ''`,
	`CREATE INDEX roots_claimed ON roots (claimed_by) WHERE claimed_by <> ''`,
}

var postgresResidence = []string{
	`ALTER TABLE roots DROP CONSTRAINT roots_hot_check`,
	`ALTER TABLE roots ADD CONSTRAINT roots_hot_check CHECK (hot IN ('queued','fetching','held','offloaded','restoring','gave_up','releasing'))`,
	`ALTER TABLE roots ADD COLUMN verified_ms BIGINT NOT NULL DEFAULT 0`,
	`DROP INDEX roots_fresh`,
	`DROP INDEX roots_retry`,
}

var residence = []string{
	`CREATE INDEX roots_fresh ON roots (account, id) WHERE hot IN ('queued','fetching','restoring') AND attempts = 0 AND claimed_by = ''`,
	`CREATE INDEX roots_retry ON roots (account, next_ms) WHERE hot IN ('queued','fetching','restoring') AND attempts > 0 AND claimed_by = ''`,
	`CREATE INDEX roots_verified ON roots (verified_ms, id) WHERE hot = 'held'`,
	`CREATE INDEX roots_away ON roots (id) WHERE hot IN ('offloaded','restoring')`,
}
