package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// spansMigration keeps the names of old pins once more, many in one text, for the search in large accounts: reading a
// million rows of an index takes longer than reading forty megabytes.
//
// A span has all names between two created times and nothing else: created only grows in an account and names do not
// change, so that nothing but the deletion of a pin can make it wrong, and that deletes the span. PostgreSQL divides such
// a search among its own processes.
func spansMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_60_name_spans",
		Migrate: func(tx *gorm.DB) error {
			if tx.Name() != "sqlite" {
				return nil
			}
			return execute(tx, []string{
				`CREATE TABLE name_spans (
					account  BIGINT NOT NULL,
					form     TEXT   NOT NULL CHECK (form IN ('created','exact','folded')),
					last_ms  BIGINT NOT NULL,
					first_ms BIGINT NOT NULL,
					n        BIGINT NOT NULL,
					content  BLOB   NOT NULL,
					PRIMARY KEY (account, form, last_ms)
				)`,
				`CREATE TRIGGER pins_unspanned AFTER DELETE ON pins BEGIN
					DELETE FROM name_spans WHERE account = OLD.account AND form IN ('created','exact','folded') AND first_ms <= OLD.created_ms
						AND last_ms = (SELECT min(last_ms) FROM name_spans WHERE account = OLD.account AND form = 'created' AND last_ms >= OLD.created_ms);
				END`,
			})
		},
	}
}
