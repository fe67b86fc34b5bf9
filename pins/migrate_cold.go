package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// coldMigration gives pins their terms, and what goes with them.
func coldMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261122_40_cold",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, cold)
		},
	}
}

// terms is NULL where nothing was decided, 0 where no cold copies are wanted, else the id of recorded terms. The
// partial index answers "does another pin of this DAG ask for the same?" and costs pins without terms nothing.
//
// pin_settings remembers from start to start: under which rule the statuses were written (pinned_when, empty while they
// are being rewritten), whether there was ever an archive (archive_seen), and which round of undecided pins is still to
// be decided (undecided, empty when none).
//
// cold_owed holds what an archive has to be told that is not there now.
var cold = []string{
	`ALTER TABLE pins ADD COLUMN terms BIGINT`,
	`CREATE INDEX pins_terms ON pins (root_id, terms) WHERE terms > 0`,
	`CREATE TABLE pin_settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)`,
	`INSERT INTO pin_settings (name, value) VALUES ('pinned_when', 'hot'), ('archive_seen', ''), ('undecided', 'before')`,
	`CREATE TABLE cold_owed (root TEXT NOT NULL, terms BIGINT NOT NULL, PRIMARY KEY (root, terms))`,
	`CREATE TABLE cold_policies (name TEXT PRIMARY KEY, policy TEXT NOT NULL, changed_ms BIGINT NOT NULL)`,
}
